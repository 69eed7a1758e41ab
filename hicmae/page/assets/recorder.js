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
    this.recorder.ondataavailable = (event) => parts.push(event.data);
    this.recorder.onstop = () => {
      clearInterval(this.timer);
      this.stream.getTracks().forEach((track) => track.stop());
      preview.srcObject = null;
      const type = this.recorder.mimeType || "video/webm";
      this.onDone(this.kept ? new File(parts, `recording.${suffix(type)}`, { type }) : null);
    };
    const began = performance.now();
    this.timer = setInterval(() => {
      const seconds = (performance.now() - began) / 1000;
      this.onTime(seconds);
      if (seconds >= maxSeconds) this.stop(true);
    }, 200);
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
