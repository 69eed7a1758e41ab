// Bars and the timeline, drawn from numbers. Names come from checkpoints: always textContent.

// Hues that colour-blind readers tell apart (Okabe and Ito, 2008), then some more.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1",
  "#7a5c00", "#5f6b7a", "#b10f4a", "#00a5a5"];
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000, HEIGHT = 220, BOTTOM = 20;

export function colourOf(index) {
  return COLOURS[index % COLOURS.length];
}

/** Whole, dashed or dotted: what tells lines of one colour apart. */
function strokeOf(index) {
  return ["", "dashed", "dotted"][Math.floor(index / COLOURS.length) % 3];
}

export function element(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) made[key] = value;
  made.append(...children);
  return made;
}

/** The place of the class that is the answer; -1 where none is sure enough, or of other tasks. */
export function answerOf(values, { task, min_confidence }) {
  const most = Math.max(...values);
  return task === "classification" && most >= min_confidence ? values.indexOf(most) : -1;
}

/** The outputs by the axis that shows them: shares first; then real values, by their scale. */
export function axesOf(labels, { scales }) {
  const shares = labels.map((_, index) => index).filter((index) => !scales.flat().includes(index));
  return [shares, ...scales].filter((places) => places.length);
}

/** The ends of each output's axis: 0 and 1 of shares; of real values as far as those of one scale
 *  reach in rows of outputs, and no less than 1 or their size in training. */
export function rangesOf(rows, labels, { scales, sizes }) {
  const ranges = labels.map(() => [0, 1]);
  for (const places of scales) {
    const values = rows.flatMap((row) => places.map((place) => row[place]));
    const least = Math.min(1, ...places.map((place) => sizes[place])) || 1;
    const high = values.reduce((most, value) => Math.max(most, Math.abs(value)), least);
    const signed = high <= 1 || values.some((value) => value < 0);
    for (const place of places) ranges[place] = [signed ? -high : 0, high];
  }
  return ranges;
}

/** A bar for each label, one of which is the answer; real values grow from the middle of their
 *  range. */
export function bars(labels, values, ranges, answer) {
  return labels.map((label, index) => {
    const [low, high] = ranges[index];
    const share = (value) => 100 * (Math.min(Math.max(value, low), high) - low) / (high - low);
    const from = share(low < 0 ? 0 : low), to = share(values[index]);
    const fill = element("div", { className: "fill" });
    fill.style.left = `${Math.min(from, to)}%`;
    fill.style.width = `${Math.abs(to - from)}%`;
    const bar = element("div", { className: "bar" },
      element("span", { className: "name", textContent: label }),
      element("div", { className: "trough" }, fill),
      element("span", { className: "number", textContent: told(values[index], high) }));
    bar.style.setProperty("--colour", colourOf(index));
    if (index === answer) bar.classList.add("first");
    return bar;
  });
}

/** Change bars that are there instead of making new ones: they move then. */
export function updateBars(place, labels, values, ranges, answer) {
  const made = bars(labels, values, ranges, answer);
  if (place.children.length !== made.length) {
    place.replaceChildren(...made);
    return;
  }
  made.forEach((bar, index) => {
    const there = place.children[index];
    there.className = bar.className;
    const fill = there.querySelector(".fill"), wanted = bar.querySelector(".fill");
    fill.style.left = wanted.style.left;
    fill.style.width = wanted.style.width;
    there.querySelector(".number").textContent = bar.querySelector(".number").textContent;
  });
}

export function legend(place, labels) {
  place.replaceChildren(...labels.map((label, index) => {
    const key = element("i", { className: strokeOf(index) });
    key.style.setProperty("--colour", colourOf(index));
    return element("span", {}, key, label);
  }));
}

/** A timeline of each axis, one below the other. */
export class Timelines {
  constructor(place, { axes, ranges, ...given }) {
    place.replaceChildren();
    this.all = axes.map((places) => {
      const one = element("div", { className: "timeline" });
      place.append(one);
      return new Timeline(one, { ...given, places, range: ranges[places[0]] });
    });
  }

  move(time, window) {
    for (const one of this.all) one.move(time, window);
  }
}

/** Lines of some outputs over time with a head that follows playback; a click calls onSeek with seconds.
 *  Values are those of kind: both, video or audio. The axis counts from zero, seconds. */
class Timeline {
  constructor(place, { labels, places, windows, kind, seconds, range, onSeek, zero = 0 }) {
    this.seconds = Math.max(seconds, 0.01);
    this.zero = zero;
    this.range = range;
    this.svg = node("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none",
      role: "img" });
    this.svg.setAttribute("aria-label",
      `${places.map((index) => labels[index]).join(", ")} over ${this.seconds.toFixed(1)} seconds; the numbers are below`);
    place.replaceChildren(this.svg);
    this.grid(place);
    this.window = node("rect", { class: "window", y: 0, height: HEIGHT - BOTTOM, width: 0, x: 0 });
    this.svg.append(this.window);
    places.forEach((index) => {
      const points = windows.filter((w) => w[kind]).map((w) =>
        [this.x((w.start + w.end) / 2), this.y(w[kind][index])]);
      if (points.length === 1) {  // a line needs two ends: as long as its window
        const [only] = windows;
        points.splice(0, 1, [this.x(only.start), points[0][1]], [this.x(only.end), points[0][1]]);
      }
      const line = node("polyline", { class: `line ${strokeOf(index)}`, stroke: colourOf(index),
        points: points.map((point) => point.map((v) => v.toFixed(1)).join(",")).join(" ") });
      this.svg.append(line);
    });
    this.head = node("line", { class: "head", y1: 0, y2: HEIGHT - BOTTOM });
    this.svg.append(this.head);
    this.svg.addEventListener("click", (event) => {
      const area = this.svg.getBoundingClientRect();
      const x = (event.clientX - area.left) / area.width * WIDTH;
      const time = x / WIDTH * this.seconds;
      onSeek(Math.min(Math.max(time, 0), this.seconds));
    });
    this.move(0, null);
  }

  x(seconds) {
    return WIDTH * seconds / this.seconds;
  }

  y(value) {
    const [low, high] = this.range;
    return (HEIGHT - BOTTOM) * (1 - (value - low) / (high - low)) * 0.96 + 4;
  }

  /** Lines and numbers; the numbers are beside the drawing, which is stretched. */
  grid(place) {
    const [low, high] = this.range;
    for (const value of [low, (low + high) / 2, high]) {
      this.svg.append(node("line", { class: "grid", x1: 0, x2: WIDTH, y1: this.y(value),
        y2: this.y(value) }));
      const label = element("span", { className: "value", textContent: tick(value, high) });
      label.style.top = `${100 * this.y(value) / HEIGHT}%`;
      place.append(label);
    }
    const step = niceStep(this.seconds / 8);
    for (let time = 0; time < this.seconds - step / 3; time += step) {
      const label = element("span", { className: "time", textContent: clock(time - this.zero, step) });
      label.style.left = `${100 * time / this.seconds}%`;
      place.append(label);
    }
  }

  /** Move the head, and show which window it lies in. */
  move(time, window) {
    const x = this.x(Math.min(Math.max(time, 0), this.seconds));
    this.head.setAttribute("x1", x);
    this.head.setAttribute("x2", x);
    this.window.setAttribute("x", window ? this.x(window.start) : 0);
    this.window.setAttribute("width", window ? this.x(window.end) - this.x(window.start) : 0);
  }
}

/** Put a box where a face is: centre, width and height as shares of the picture, and degrees. */
export function frameFace(box, [x, y, width, height, angle], caption, colour) {
  box.hidden = false;
  box.style.left = `${100 * (x - width / 2)}%`;
  box.style.top = `${100 * (y - height / 2)}%`;
  box.style.width = `${100 * width}%`;
  box.style.height = `${100 * height}%`;
  box.style.transform = `rotate(${angle}deg)`;
  box.style.setProperty("--colour", colour);
  const [label] = box.children;
  label.textContent = caption;
  // From the side where there is more room, in lines as long as that is.
  label.style.left = x < 0.5 ? "-3px" : "auto";
  label.style.right = x < 0.5 ? "auto" : "-3px";
  label.style.maxWidth = `${100 * ((x < 0.5 ? 1 - x : x) + width / 2) / width}%`;
  // Inside the box, and inside the picture, where there is no room above it.
  const top = y - height / 2, above = top * box.parentElement.clientHeight >= label.offsetHeight;
  label.style.bottom = above ? "100%" : "auto";
  label.style.top = above ? "auto" : `${100 * Math.max(-top, 0) / height}%`;
}

/** What is said in one line, and in which colour: the answer, all real values of axes that end at
 *  ranges, or what several heads say. */
export function captionOf(labels, values, ranges, about, said) {
  if (about.task === "joint") return [said, "#ffffff"];
  const answer = answerOf(values, about);
  if (about.task === "classification" && answer < 0) return ["not sure", "#ffffff"];
  return answer >= 0 ? [`${labels[answer]} ${fixed(values[answer])}`, colourOf(answer)]
    : [labels.map((label, i) => `${label} ${told(values[i], ranges[i][1])}`).join("  "), "#ffffff"];
}

/** A value beside an axis that ends at high. */
function tick(value, high) {
  return high >= 0.95 ? value.toFixed(1) : String(Number(value.toPrecision(2)));
}

/** A value as text; what rounds to nothing has no sign. */
export function fixed(value, digits = 2) {
  return value.toFixed(digits).replace(/^-(0\.0*)$/, "$1");
}

/** A value as text, to a hundredth of where its axis ends; to a thousandth with 3 digits. */
export function told(value, high, digits = 2) {
  const behind = digits - Math.min(Math.ceil(Math.log10(high)), 0);
  return behind > digits + 2 ? value.toExponential(digits - 1) : fixed(value, behind);
}

/** Where the joint answer lies, by its distances to those of the picture and of the sound alone as
 *  they are shown. */
export function lyingOf(picture, sound) {
  if (picture === sound) return "equally near to both";
  return `nearer to the ${Number(picture) < Number(sound) ? "picture" : "sound"}`;
}

/** Seconds as a clock shows them. */
export function clock(seconds, step = 1) {
  const digits = step < 1 ? 1 : 0;
  if (seconds < 60) return `${seconds.toFixed(digits)} s`;
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
}

function niceStep(rough) {
  return [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600].find((s) => s >= rough) ?? 1200;
}

function node(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
