// The page: a clip goes up, its prediction comes down and moves with playback.

import {
  Timelines, answerOf, axesOf, bars, captionOf, clock, element, fixed, frameFace, legend, lyingOf,
  rangesOf, told, updateBars,
} from "/charts.js";
import { LiveView } from "/live.js";
import { Recorder } from "/recorder.js";

const at = (id) => document.getElementById(id);
const POLL_MS = 400;
const MOST_UNANSWERED = 150;  // in a row, a minute: a machine wakes up, the program is started anew
const MEASURES = { both: "Picture and sound", video: "Picture alone", audio: "Sound alone" };

let model = null;   // what the network is
let work = null;    // the recording in work: { id, stop }
let shown = null;   // { result, track, timeline, url, playable }

function fail(message) {
  at("error").textContent = message;
  at("error").hidden = !message;
}

/** JSON of an answer; an error of the server becomes an Error in its words. */
async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    const message = "The page's program does not answer; is `hicmae serve` still running?";
    throw Object.assign(new Error(message), { unanswered: true });
  }
  const body = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) {
    throw new Error(body?.error?.message ?? `The page's program answered ${answer.status}.`);
  }
  return body;
}

/** Look at what was dropped, if it is one file; a recording in work goes on if it is not. */
function take(files) {
  if (files.length === 1) give(files[0]);
  else if (files.length) fail(`${files.length} files were dropped; this page looks at one at a time, `
    + "`hicmae predict` at whole folders.");
  else fail("What was dropped is no file; save it first, and drop that.");
}

async function give(file) {
  fail("");
  if (model && file.size > model.max_megabytes * 1e6) {
    fail(`${file.name} is larger than ${model.max_megabytes} MB, the limit of this page.`);
    return;
  }
  const given = cancel();
  const mine = work = { id: null, stop: new AbortController() };
  const { signal } = mine.stop;
  at("working").hidden = false;
  at("stage").textContent = `Sending ${file.name} …`;
  at("share").removeAttribute("value");
  const form = new FormData();
  form.append("file", file, file.name);
  try {
    await given;
    await file.stream().getReader().read().catch(() => {  // else no answer of the program's
      throw new Error(`${file.name} cannot be read: it is a folder, or is not there as it was.`);
    });
    greet();  // it may have been started anew, with another network
    mine.id = (await ask("/api/jobs", { method: "POST", body: form, signal })).id;
    for (let unanswered = 0; ;) {
      const status = await ask(`/api/jobs/${mine.id}`, { signal }).catch((problem) => {
        if (!problem.unanswered || unanswered === MOST_UNANSWERED) throw problem;
      });
      if (work !== mine) return;  // given up while the answer came
      unanswered = status ? 0 : unanswered + 1;
      if (status?.state === "failed") throw new Error(`${status.name}: ${status.error.message}`);
      if (status?.state === "done") {
        cancel();  // it is here now; the server need not keep it
        show(status.result, file, status.name);
        return;
      }
      if (status) tell(status);
      else at("stage").textContent = "No answer (is `hicmae serve` running?), asking again …";
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  } catch (problem) {
    if (work !== mine) return;  // it was given up
    if (document.activeElement === at("cancel")) at("file").focus();  // what goes out of sight has none
    cancel();  // else it goes on, and others wait for it
    fail(problem.message);
  }
}

function tell(status) {
  const waiting = status.state === "waiting";
  at("stage").textContent = waiting
    ? `Waiting; ${status.ahead} before it` : `${status.stage || "Opening"} …`;
  if (waiting || !status.stage) at("share").removeAttribute("value");
  else at("share").value = status.share;
}

/** Give up the recording in work, sent or still being sent. */
async function cancel() {
  at("working").hidden = true;
  const { id, stop } = work ?? {};
  work = null;
  stop?.abort();
  if (id) await fetch(`/api/jobs/${id}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

function show(result, file, name) {
  if (shown) {
    URL.revokeObjectURL(shown.url);
    URL.revokeObjectURL(at("save").href);
  }
  // Played from the browser's own copy: the server's is deleted already.
  shown = { result, url: URL.createObjectURL(file), playable: true, track: null };
  at("result").hidden = at("skip").hidden = false;
  at("result-title").textContent = name;
  at("now").replaceChildren();  // those of another network's outputs
  at("notes").replaceChildren(
    ...result.notes.map((note) => element("li", { textContent: note })));
  const json = new Blob([JSON.stringify(result, null, 1)], { type: "application/json" });
  at("save").href = URL.createObjectURL(json);

  const player = at("player");
  player.hidden = false;
  at("still").hidden = at("unplayable").hidden = true;
  player.src = shown.url;
  const stage = at("stage-area").style;
  stage.aspectRatio = result.width ? `${result.width} / ${result.height}` : "auto";
  stage.maxWidth = result.width ? `calc(70vh * ${result.width / result.height})` : "none";
  player.style.height = result.width ? "100%" : "3.5rem";

  const choice = at("track");
  choice.replaceChildren(...result.tracks.map((track, index) => element("option",
    { value: index, textContent: `${track.name} (${clock(track.start)} to ${clock(track.end)})` })));
  at("track-choice").hidden = result.tracks.length < 2;
  at("position").max = Math.ceil(10 * result.seconds) / 10;  // the end is a step too
  const bank = result.filter_bank;
  at("fbank-area").hidden = !bank;
  if (bank) {
    at("fbank").src = bank.picture;
    at("fbank").style.left = `${100 * bank.start / result.seconds}%`;
    at("fbank").style.width = `${100 * (bank.end - bank.start) / result.seconds}%`;
  }
  choose(longest(result.tracks));
  at("result").focus({ preventScroll: true });
  at("result").scrollIntoView({ block: "start" });
}

function longest(tracks) {
  const length = (track) => track.end - track.start;
  return tracks.reduce((best, track, i) => length(track) > length(tracks[best]) ? i : best, 0);
}

function ranges() {
  const all = shown.result.tracks.flatMap((track) => track.windows)
    .flatMap((w) => [w.both, w.video, w.audio]).filter(Boolean);
  return rangesOf(all, shown.result.labels, shown.result);
}

/** Show one of several faces. */
function choose(index) {
  const { result } = shown;
  const track = result.tracks[index];
  at("track").value = index;
  shown.track = track;
  shown.ranges = ranges();
  const predicted = result.kind === "emotion";
  at("now-area").hidden = at("timeline").hidden = !predicted;
  at("timeline-title").textContent = predicted
    ? (result.task === "classification" ? "Probabilities over time" : "Values over time")
    : "Timeline";
  legend(at("legend"), result.labels);
  const kinds = measured(track);
  at("kind").replaceChildren(...kinds.map((name) => element("option",
    { value: name, textContent: MEASURES[name] })));
  at("kind-choice").hidden = kinds.length < 2;
  draw();
  at("still").src = track.thumbnail || "data:,";
  at("box").hidden = true;
  compare(track);
  reconstructions(track);
  table(track);
  moved();
}

/** What the network went by: picture and sound and each alone, or the one that there is. */
function measured(track) {
  const given = Object.keys(MEASURES).filter((name) => track.summary[name]);
  return given.length === 2 ? given.filter((name) => name !== "both") : given;
}

/** The timeline, of picture and sound or of one of them. */
function draw() {
  const { result, track } = shown;
  shown.timeline = new Timelines(at("timeline"), { labels: result.labels, windows: track.windows,
    kind: at("kind").value || "both", seconds: result.seconds, ranges: shown.ranges, onSeek: seek,
    axes: axesOf(result.labels, result) });
}

/** Audio alone, video alone and both, side by side. */
function compare(track) {
  const { labels } = shown.result;
  const given = measured(track);
  at("modalities").hidden = !shown.result.labels.length;
  at("side-by-side").replaceChildren(...given.map((name) => element("div", { className: "card" },
    element("h4", { textContent: MEASURES[name] }),
    ...bars(labels, track.summary[name], shown.ranges,
      answerOf(track.summary[name], shown.result)))));
  at("mattered").textContent = mattered(track.summary);
}

function mattered({ both, video, audio, said }) {
  if (!both) return "";
  if (!video || !audio) {
    return video ? "The network went by the picture: there is no other."
      : "The network went by the sound: there is no other.";
  }
  const { labels, task } = shown.result;
  // Of real values in units of their axis, so that no scale outweighs another.
  const distance = (one) => one.reduce((sum, v, i) => sum + Math.abs(v - both[i])
    / shown.ranges[i][1], 0) / (task === "classification" ? 2 : labels.length);
  const [picture, sound] = [fixed(distance(video)), fixed(distance(audio))];
  const top = (one) => labels[answerOf(one, shown.result)] ?? "not sure";
  const says = task === "joint"
    ? `Together: ${said.both}. Picture alone: ${said.video}. Sound alone: ${said.audio}. `
    : task === "classification"
    ? `Together: ${top(both)}; picture alone: ${top(video)}; sound alone: ${top(audio)}. ` : "";
  return `${says}The joint answer lies ${lyingOf(picture, sound)} (distance to the picture's `
    + `${picture}, to the sound's ${sound}; means over the clip).`;
}

function reconstructions(track) {
  at("reconstructions").hidden = !track.reconstructions.length;
  const strip = (pictures, alt) => element("div", { className: "strip" },
    ...pictures.map((src, i) => element("img", { src, alt: `${alt}, frame ${i + 1}` })));
  at("reconstruction-list").replaceChildren(...track.reconstructions.map((one) => element("div",
    { className: "card" },
    element("h4", { textContent: `${clock(one.start, 0.1)} to ${clock(one.end, 0.1)}, `
      + `mean squared error of hidden pixels ${one.error.toFixed(4)}` }),
    strip(one.original, "Original"), strip(one.masked, "Masked"), strip(one.filled, "Filled in"),
    element("div", { className: "banks" }, ...one.fbank.map((src, i) => element("img",
      { src, alt: `Filter bank: ${["original", "masked", "filled in"][i]}` }))))));
}

function table(track) {
  const { labels } = shown.result;
  const cells = (tag, texts) => element("tr", {},
    ...texts.map((text) => element(tag, { textContent: text })));
  const head = ["from", "to"];
  const kinds = measured(track);
  for (const kind of kinds) head.push(...labels.map((label) => `${label} (${kind})`));
  const rows = track.windows.map((w) => cells("td", [w.start.toFixed(2), w.end.toFixed(2),
    ...kinds.flatMap((kind) => (w[kind] ?? []).map((value, i) => told(value, shown.ranges[i][1], 3)))]));
  at("table").replaceChildren(cells("th", head), ...rows);
}

function seek(time) {
  if (shown.playable) at("player").currentTime = time;
  at("position").value = time;
  moved(time);
}

/** Everything that follows playback. */
function moved(time = shown?.playable ? at("player").currentTime : Number(at("position").value)) {
  if (!shown?.track) return;
  const { track, result } = shown;
  at("position").value = time;
  at("now-time").textContent = at("position").ariaValueText = clock(time, 0.1);
  // The window whose middle is nearest speaks for this moment.
  const middle = (w) => Math.abs((w.start + w.end) / 2 - time);
  const inside = time >= track.start - 0.05 && time <= track.end + 0.05;
  const now = inside && track.windows.length
    ? track.windows.reduce((best, w) => middle(w) < middle(best) ? w : best) : null;
  shown.timeline.move(time, now);
  at("fbank-head").style.left = `${100 * time / result.seconds}%`;
  let caption = track.name, colour = "#ffffff";
  if (now?.both) {
    updateBars(at("now"), result.labels, now.both, shown.ranges, answerOf(now.both, result));
    [caption, colour] = captionOf(result.labels, now.both, shown.ranges, result,
      now.said?.both);
  } else {
    at("now").replaceChildren(element("p", { className: "quiet",
      textContent: "Nothing was predicted for this moment." }));
  }
  place(track, time, caption, colour);
}

/** Put the box where the face is, between the two nearest boxes. */
function place(track, time, caption, colour) {
  const box = at("box");
  const index = (time - track.start) * track.box_rate;
  if (!track.boxes.length || !shown.playable || index < -1 || index > track.boxes.length) {
    box.hidden = true;
    return;
  }
  const last = track.boxes.length - 1;
  const before = track.boxes[Math.min(Math.max(Math.floor(index), 0), last)];
  const after = track.boxes[Math.min(Math.max(Math.ceil(index), 0), last)];
  const part = Math.min(Math.max(index - Math.floor(index), 0), 1);
  frameFace(box, before.map((v, i) => v + (after[i] - v) * part), caption, colour);
}

function follow() {
  moved();
  if (!at("player").paused) requestAnimationFrame(follow);
}

function listen() {
  at("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) give(file);
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
  at("cancel").addEventListener("click", () => {
    cancel();
    at("file").focus();
  });
  at("track").addEventListener("change", (event) => choose(Number(event.target.value)));
  at("kind").addEventListener("change", () => {
    draw();
    moved();
  });
  const player = at("player");
  player.addEventListener("play", follow);
  for (const kind of ["timeupdate", "seeked", "loadedmetadata"]) {
    player.addEventListener(kind, () => moved());
  }
  player.addEventListener("error", () => {
    if (!shown || !player.getAttribute("src")) return;
    shown.playable = false;
    player.hidden = true;
    at("unplayable").hidden = false;
    at("still").hidden = !shown.track?.thumbnail;
    moved();
  });
  at("position").addEventListener("input", (event) => seek(Number(event.target.value)));
  at("fbank-frame").addEventListener("click", (event) => {
    const area = event.currentTarget.getBoundingClientRect();
    seek((event.clientX - area.left) / area.width * shown.result.seconds);
  });
  window.addEventListener("pagehide", () => cancel());
}

function record() {
  const recorder = new Recorder({
    onTime: (seconds) => { at("recorded").textContent = clock(seconds); },
    onDone: (file) => {
      at("recording").hidden = true;
      at("drop").hidden = false;
      at("file").focus();
      if (file) give(file);
    },
  });
  const buttons = [at("record-video"), at("record-audio")];
  const begin = async (picture, { target }) => {
    fail("");
    for (const button of buttons) button.disabled = true;  // while the browser asks
    try {
      await recorder.start({ picture, preview: at("preview"), maxSeconds: model?.max_seconds ?? 60 });
      at("recording").hidden = false;
      at("drop").hidden = true;
      at("record-stop").focus();  // what was pressed is gone
    } catch (problem) {
      fail(problem.message);
    }
    for (const button of buttons) button.disabled = false;
    if (at("recording").hidden) target.focus();  // a button that was disabled has none
  };
  at("record-video").addEventListener("click", (event) => begin(true, event));
  at("record-audio").addEventListener("click", (event) => begin(false, event));
  at("record-stop").addEventListener("click", () => recorder.stop(true));
  at("record-drop").addEventListener("click", () => recorder.stop(false));
}

/** What the camera shows while it runs. */
function live() {
  const view = new LiveView({ ask, at });
  let turn = 0;
  const end = (message) => {
    turn += 1;
    view.stop();
    at("live-view").hidden = true;
    at("drop").hidden = false;
    fail(message);
    at("live").focus();
  };
  at("live").addEventListener("click", async () => {
    end("");
    at("drop").hidden = true;
    at("live-view").hidden = false;
    at("live-stop").focus();
    const mine = turn;
    await greet();  // the program may have been started anew, with another network
    if (turn === mine) await view.run(model).catch((problem) => end(problem.message));
  });
  at("live-stop").addEventListener("click", () => end(""));
}

async function greet() {
  try {
    model = await ask("/api/model");
  } catch (problem) {
    at("model").textContent = problem.message;
    return;
  }
  const what = model.kind === "pretraining" ? "pretrained, shows reconstructions"
    : model.labels.join(", ");
  at("model").textContent =
    `${model.name}: ${(model.num_parameters / 1e6).toFixed(1)} M parameters, ${model.modalities}; ${what}`;
  at("limits").textContent = `Up to ${model.max_megabytes} MB and ${clock(model.max_seconds)}`
    + (model.max_seconds >= 60 ? " min" : "");
  // Offered where the camera's pictures cannot leave the machine.
  at("live").hidden = Boolean(model.live);
  at("why-not-live").hidden = !model.live || model.kind !== "emotion";
  at("why-not-live").textContent = `No live view: ${model.live}.`;
}

listen();
record();
live();
greet();
