// Runs beside the page, on the thread of the sound: hands what the microphone gives to the page.

class Microphone extends AudioWorkletProcessor {
  process([[samples]]) {
    if (samples) this.port.postMessage({ seconds: currentTime, samples: samples.slice() });
    return true;
  }
}

registerProcessor("microphone", Microphone);
