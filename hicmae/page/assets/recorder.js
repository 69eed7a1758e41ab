// Recording from camera and microphone, into one file.

export class Recorder {
  /** onTime is called with the seconds so far, onDone with a File, or null if it is thrown away. */
  constructor({ onTime, onDone }) {
    this.onTime = onTime;
    this.onDone = onDone;
  }

  /** Begin; rejects with an Error in words where there is no camera, microphone or permission. */
  async start({ picture, preview, maxSeconds }) {
    if (!navigator.mediaDevices || !window.MediaRecorder) {
      throw new Error("This browser records only on pages opened as localhost or by https.");
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia(
        { audio: true, video: picture ? { width: { ideal: 640 } } : false });
    } catch (problem) {
      const what = picture ? "camera and microphone" : "microphone";
      throw new Error(problem.name === "NotAllowedError"
        ? `The browser was not allowed to use the ${what}.`
        : `The ${what} cannot be used (${problem.name}).`);
    }
    preview.srcObject = picture ? this.stream : null;
    preview.hidden = !picture;
    if (picture) preview.play().catch(() => {});
    const parts = [];
    this.kept = true;
    this.recorder = new MediaRecorder(this.stream);
    this.recorder.ondataavailable = (event) => {
      parts.push(event.data);
      look();  // timers of a page that is not in sight may come once a minute
    };
    this.recorder.onstop = () => {
      clearInterval(this.timer);
      this.stream.getTracks().forEach((track) => track.stop());
      preview.srcObject = null;
      const type = this.recorder.mimeType || "video/webm";
      this.onDone(this.kept ? new File(parts, `recording.${suffix(type)}`, { type }) : null);
    };
    const began = performance.now();
    const look = () => {
      const seconds = (performance.now() - began) / 1000;
      this.onTime(seconds);
      // It comes a second apart, and a longer recording would be refused whole.
      if (seconds >= maxSeconds - Math.min(1.5, maxSeconds / 2)) this.stop(true);
    };
    this.timer = setInterval(look, 200);
    this.recorder.start(1000);
  }

  stop(keep) {
    this.kept = keep;
    if (this.recorder?.state === "recording") this.recorder.stop();
  }
}

function suffix(type) {
  return type.includes("mp4") ? "mp4" : type.includes("ogg") ? "ogg" : "webm";
}
