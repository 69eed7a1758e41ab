// The camera's emotion while it runs: every second the last seconds go to the page's own program.

import {
  Timelines, answerOf, axesOf, captionOf, frameFace, legend, rangesOf, updateBars,
} from "/charts.js";

const FRAME_SECONDS = 0.07;   // pictures come closer together than the network wants them
const SHOWN_SECONDS = 60;
const LATE_SECONDS = 1;       // a camera that gave nothing for so long gives nothing
const now = () => performance.now() / 1000;

/** The last seconds of a camera and a microphone, in memory. */
class Source {
  constructor({ video, seconds, reads }) {
    Object.assign(this, { video, seconds, reads, frames: [], sound: [], ended: false });
  }

  /** Begin; rejects with an Error in words. */
  async start() {
    if (!navigator.mediaDevices) throw new Error("This browser gives no camera to this page.");
    const wanted = {
      video: this.reads.includes("video") && { width: { ideal: 640 } },
      // As it is heard: networks are trained on sound that nobody has cleaned.
      audio: this.reads.includes("audio") && { channelCount: 1, echoCancellation: false,
        noiseSuppression: false, autoGainControl: false },
    };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia(wanted);
    } catch (problem) {
      throw new Error(problem.name === "NotAllowedError"
        ? "The browser was not allowed to use camera or microphone."
        : `Camera or microphone cannot be used (${problem.name}).`);
    }
    for (const track of this.stream.getTracks()) {
      if (this.ended) track.stop();  // it was stopped while the browser asked
      track.addEventListener("ended", () => { this.ended = true; });
    }
    if (wanted.video && !this.ended) await this.see();
    if (wanted.audio && !this.ended) await this.hear();
  }

  async see() {
    this.video.srcObject = this.stream;
    await this.video.play();
    const canvas = document.createElement("canvas");
    let last = -Infinity;
    const take = (called, { captureTime } = {}) => {
      if (this.ended) return;
      const seconds = (captureTime ?? called) / 1000;
      if (seconds - last >= FRAME_SECONDS) {
        last = seconds;
        [canvas.width, canvas.height] = [this.video.videoWidth, this.video.videoHeight];
        canvas.getContext("2d").drawImage(this.video, 0, 0);
        canvas.toBlob((blob) => this.frames.push({ seconds, blob }), "image/jpeg", 0.92);
        this.frames = this.frames.filter((frame) => frame.seconds > seconds - this.seconds - 2);
      }
      this.video.requestVideoFrameCallback(take);
    };
    this.video.requestVideoFrameCallback(take);
  }

  async hear() {
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule("/microphone.js");
    const microphone = new AudioWorkletNode(this.context, "microphone",
      { channelCount: 1, channelCountMode: "explicit" });
    const latency = this.stream.getAudioTracks()[0].getSettings().latency ?? 0;
    // From the clock of the sound to that of the page: of messages that come late, the least late.
    let offset = Infinity;
    microphone.port.onmessage = ({ data: { seconds, samples } }) => {
      const rate = this.context.sampleRate, end = seconds + samples.length / rate;
      offset = Math.min(offset, now() - end);
      this.offset = offset - latency;
      this.sound.push({ end, samples });
      while (this.sound[0].end < end - this.seconds - 2) this.sound.shift();
    };
    this.context.createMediaStreamSource(this.stream).connect(microphone);
    microphone.connect(this.context.destination);  // silent; what leads nowhere does not run
    await this.context.resume();
  }

  /** The newest window as a form with its end, or null where it is not full yet. */
  window() {
    let frames = [...this.frames].sort((a, b) => a.seconds - b.seconds);
    const sound = [...this.sound], rate = this.context?.sampleRate;
    const heard = sound.length ? sound.at(-1).end + this.offset : -Infinity;
    let seen = frames.length ? frames.at(-1).seconds + FRAME_SECONDS : -Infinity;
    if (seen < heard - LATE_SECONDS) [frames, seen] = [[], -Infinity];
    const end = Math.min(...[seen, heard].filter((time) => time > Math.max(seen, heard) - LATE_SECONDS));
    const begins = [frames[0]?.seconds, sound.length ? sound[0].end + this.offset : undefined];
    if (!Number.isFinite(end) || begins.some((time) => time > end - this.seconds)) return null;
    frames = frames.filter(({ seconds }) => seconds > end - this.seconds - 0.1 && seconds < end);
    const form = new FormData();
    frames.forEach(({ blob }) => form.append("frames", blob, "frame.jpg"));
    const about = { end, times: frames.map(({ seconds }) => seconds) };
    if (sound.length) {
      const samples = sound.flatMap((block) => [...block.samples]);
      const whole = Int16Array.from(samples, (v) => Math.round(32767 * Math.min(1, Math.max(-1, v))));
      form.append("sound", new Blob([whole]), "sound");
      about.sound_rate = rate;
      about.sound_start = heard - samples.length / rate;
    }
    form.append("about", JSON.stringify(about));
    return { end, form };
  }

  stop() {
    this.ended = true;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.video.srcObject = null;
  }
}

export class LiveView {
  constructor({ ask, at }) {
    Object.assign(this, { ask, at, source: null });
  }

  /** Show what a network says until it is stopped; rejects with an Error in words. */
  async run(model) {
    const { at } = this;
    this.model = model;
    const source = new Source({ video: at("live-video"), seconds: model.window_seconds,
      reads: model.modalities });
    this.source = source;
    at("live-now").replaceChildren();
    at("live-delay").textContent = "Waiting for the first window …";
    at("live-box").hidden = true;
    at("live-video").parentElement.hidden = !model.modalities.includes("video");
    legend(at("live-legend"), model.labels);
    try {
      await source.start();
    } catch (problem) {
      if (this.source === source) throw problem;
    }
    const windows = [], delays = [];
    let due = now();
    while (this.source === source) {
      if (source.ended) throw new Error("Camera or microphone has ended.");
      const window = now() >= due ? source.window() : null;
      if (!window) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        continue;
      }
      due = Math.max(due + model.hop_seconds, now());  // a slow machine has fewer, not later ones
      const said = await this.ask("/api/live", { method: "POST", body: window.form });
      if (this.source !== source) return;
      const delay = now() - window.end;
      delays.push(delay);
      if (said.values) windows.push({ end: window.end, values: said.values });
      this.show(said, windows, window.end);
      const middle = [...delays.slice(-31)].sort((a, b) => a - b)[Math.floor(Math.min(delays.length, 31) / 2)];
      at("live-delay").textContent = `Delay ${delay.toFixed(2)} s (median ${middle.toFixed(2)} s), of `
        + `which the network and the faces took ${said.seconds.toFixed(2)} s. A value is about the `
        + `${model.window_seconds.toFixed(2)} s before.`;
    }
  }

  show({ modality, values, said, box }, windows, end) {
    const { model, at } = this;
    while (windows.length && windows[0].end < end - SHOWN_SECONDS) windows.shift();
    const ranges = rangesOf(windows.map((window) => window.values), model.labels, model);
    at("live-by").textContent = { "audio-video": "by picture and sound", video: "by the picture alone",
      audio: "by the sound alone: no face" }[modality] ?? "no face, nothing to go by";
    if (values) updateBars(at("live-now"), model.labels, values, ranges, answerOf(values, model));
    else at("live-now").replaceChildren();
    at("live-box").hidden = true;
    if (box) {
      const video = at("live-video");
      video.parentElement.style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`;
      frameFace(at("live-box"), box, ...captionOf(model.labels, values, ranges, model, said));
    }
    const shown = windows.map((window) => ({ both: window.values,
      start: window.end - end + SHOWN_SECONDS, end: window.end - end + SHOWN_SECONDS }));
    new Timelines(at("live-timeline"), { labels: model.labels, windows: shown, kind: "both",
      seconds: SHOWN_SECONDS, zero: SHOWN_SECONDS, ranges, axes: axesOf(model.labels, model), onSeek: () => {} })
      .move(SHOWN_SECONDS, null);
  }

  stop() {
    this.source?.stop();
    this.source = null;
  }
}
