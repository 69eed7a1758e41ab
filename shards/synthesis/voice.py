"""A clip's sound: a source (pulses of the glottis, breath) through the filter of a vocal tract.

``render_sound`` takes no expression, which is why the sound cannot tell it. A ``bright`` voice has
a flatter spectrum, hardly any breath, rising syllables and vibrato; a ``soft`` one a steeper
spectrum, audible breath and falling syllables. Timing and loudness are the script's, which the
mouth shows: the envelope is imposed after source and filter have been made equally loud.
Source: source-filter theory; Fant, Acoustic Theory of Speech Production, 1960.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from scipy.signal import fftconvolve

from shards.synthesis.settings import Voice
from shards.synthesis.speakers import Script, VoiceBox

# First four formants of a long vocal tract, hertz. Source: rounded from Peterson and Barney, 1952.
_FORMANTS = {
    "a": (730, 1090, 2440, 3400),
    "e": (530, 1840, 2480, 3500),
    "i": (270, 2290, 3010, 3600),
    "o": (570, 840, 2410, 3300),
    "u": (300, 870, 2240, 3200),
}
_BANDWIDTHS = np.array([80.0, 100.0, 140.0, 200.0])
_WINDOW = 512
_HOP = 128
# The course of pitch and formants is drawn this often a second, then interpolated.
_CONTROL_RATE = 500


def render_sound(
    voice_box: VoiceBox,
    script: Script,
    voice: Voice,
    strength: float,
    rng: Generator,
    *,
    sample_rate: int,
    snr_db: tuple[float, float],
) -> np.ndarray:
    """Render one clip's sound.

    Args:
        strength: Of the voice, 0..1.
        rng: Melody, room, microphone and background noise are drawn from it.
        sample_rate: Hz.
        snr_db: Range of the distance between voice and background noise, decibels.

    Returns: int16 (n,), n = script.seconds · sample_rate, rounded.
    """
    num_samples = round(script.seconds * sample_rate)
    sign = (1.0 if voice == "bright" else -1.0) * strength
    times = np.arange(num_samples) / sample_rate
    pitch = _pitch(voice_box, script, sign, rng, times)
    breath = np.clip(voice_box.breath + 0.10 - 0.10 * sign + max(0.0, -sign) * 0.45, 0.01, 0.8)
    pulses = _pulses(pitch, sample_rate)
    air = rng.standard_normal(num_samples)
    source = (1 - breath) * pulses / pulses.std() + breath * air
    slope = voice_box.tilt_db + 3.5 * sign + rng.uniform(-1.0, 1.0)
    voiced = _through_tract(source, voice_box, script, slope, sample_rate)
    speech = _level(voiced, sample_rate)
    control = np.arange(0, script.seconds + 0.1, 1 / _CONTROL_RATE)
    speech *= np.interp(times, control, script.loudness(control))
    speech += _consonants(script, rng, times, sample_rate)
    return _record(speech, rng, sample_rate, snr_db)


def _pitch(
    voice_box: VoiceBox, script: Script, sign: float, rng: Generator, times: np.ndarray
) -> np.ndarray:
    """Fundamental frequency (n,), hertz."""
    control = np.arange(0, script.seconds + 0.1, 1 / _CONTROL_RATE)
    # Everybody declines over the clip and wavers; stressed syllables are higher.
    semitones = rng.uniform(-1.5, 1.5) - rng.uniform(0, 1.2) * (control / script.seconds - 0.5)
    semitones += gaussian_filter1d(rng.standard_normal(len(control)), 40) * 4.0
    semitones += rng.uniform(0.8, 2.0) * script.stress(control)
    for syllable in script.syllables:
        place = (control - syllable.start_seconds) / syllable.seconds
        slide = np.where((place > -0.3) & (place < 1.3), np.clip(place, 0, 1) - 0.5, 0.0)
        semitones += (4.5 * sign + rng.normal(0, 0.7)) * slide
    semitones = gaussian_filter1d(semitones, 6)
    rate, phase = rng.uniform(5.0, 6.5), rng.uniform(0, 2 * np.pi)
    depth = 0.08 + 0.75 * max(0.0, sign)
    semitones += depth * np.sin(2 * np.pi * rate * control + phase)
    return np.interp(times, control, voice_box.pitch_hz * 2 ** (semitones / 12))


def _pulses(pitch: np.ndarray, sample_rate: int) -> np.ndarray:
    """One pulse a period (n,), each split between the two samples it falls between."""
    cycles = np.cumsum(pitch / sample_rate)
    crossed = np.flatnonzero(np.floor(cycles[1:]) > np.floor(cycles[:-1])) + 1
    late = (cycles[crossed] - np.floor(cycles[crossed])) * sample_rate / pitch[crossed]
    late = np.clip(late, 0, 1)
    pulses = np.zeros(len(pitch))
    pulses[crossed] += (1 - late) / np.sqrt(pitch[crossed])
    pulses[crossed - 1] += late / np.sqrt(pitch[crossed])
    return pulses


def _through_tract(
    source: np.ndarray, voice_box: VoiceBox, script: Script, slope_db: float, sample_rate: int
) -> np.ndarray:
    """Shape the source (n,) frame by frame with the formants of what is being said."""
    padded = np.pad(source, (_WINDOW, 2 * _WINDOW))
    starts = np.arange(0, len(source) + _WINDOW + 1, _HOP)
    window = np.sqrt(np.hanning(_WINDOW + 1)[:-1])
    frames = padded[starts[:, None] + np.arange(_WINDOW)] * window  # (frames, window)
    spectrum = np.fft.rfft(frames)
    hertz = np.fft.rfftfreq(_WINDOW, 1 / sample_rate)
    times = (starts - _WINDOW / 2) / sample_rate
    formants = _formants(script, times) * voice_box.formant_scale  # (frames, 4)
    shape = np.ones((len(starts), len(hertz)))
    for centre, band in zip(formants.T, _BANDWIDTHS, strict=True):
        f2, c2 = hertz[None, :] ** 2, centre[:, None] ** 2
        shape *= c2 / np.sqrt((f2 - c2) ** 2 + f2 * band**2 * 4)
    octaves = np.log2(np.maximum(hertz, 100) / 500)
    # Four resonances fall off by themselves; the source adds its slope to that.
    shape *= 10 ** ((slope_db + 3.0) * octaves / 20)
    shape[:, hertz < 60] = 0
    shaped = np.fft.irfft(spectrum * shape, _WINDOW) * window
    out = np.zeros(len(padded))
    for lane in range(_WINDOW // _HOP):  # frames of one lane do not overlap
        part = shaped[lane :: _WINDOW // _HOP].ravel()
        out[lane * _HOP : lane * _HOP + len(part)] += part[: len(out) - lane * _HOP]
    return out[_WINDOW : _WINDOW + len(source)]


def _formants(script: Script, times: np.ndarray) -> np.ndarray:
    """Formants (n, 4) at times (n,): each vowel's at its middle, gliding between."""
    if not script.syllables:
        return np.tile(np.array(_FORMANTS["e"], float), (len(times), 1))
    knots, values = [], []
    for syllable in script.syllables:
        for place in (0.2, 0.8):
            knots.append(syllable.start_seconds + place * syllable.seconds)
            values.append(_FORMANTS[syllable.vowel])
    table = np.array(values, float)
    return np.stack([np.interp(times, knots, table[:, i]) for i in range(4)], axis=1)


def _level(sound: np.ndarray, sample_rate: int) -> np.ndarray:
    """Sound (n,) made equally loud throughout, so that the envelope can be imposed."""
    power = uniform_filter1d(sound**2, round(0.03 * sample_rate))
    return sound / np.sqrt(np.maximum(power, 1e-4 * power.max() + 1e-12))


def _consonants(script: Script, rng: Generator, times: np.ndarray, sample_rate: int) -> np.ndarray:
    """Noise (n,) of plosives (a burst) and fricatives (a hiss) before their vowels."""
    noise = rng.standard_normal(len(times))
    hiss = noise - uniform_filter1d(noise, 5)  # high frequencies only
    gain = np.zeros(len(times))
    for syllable in script.syllables:
        seconds = {"plosive": 0.018, "fricative": 0.07}.get(syllable.consonant)
        if seconds is None:
            continue
        first = max(0, round((syllable.start_seconds - seconds) * sample_rate))
        last = first + round(seconds * sample_rate)
        gain[first:last] = syllable.level * 0.35 * np.hanning(last - first)[: len(gain) - first]
    return hiss * gain


def _record(
    speech: np.ndarray, rng: Generator, sample_rate: int, snr_db: tuple[float, float]
) -> np.ndarray:
    """What a microphone in a room makes of it: echo, colour, background noise, level."""
    decay = rng.uniform(0.02, 0.12)
    tail = np.arange(round(3 * decay * sample_rate)) / sample_rate
    echo = rng.standard_normal(len(tail)) * np.exp(-tail / decay)
    echo *= rng.uniform(0.0, 0.3) / np.sqrt((echo**2).sum())
    echo[0] += 1.0
    speech = fftconvolve(speech, echo)[: len(speech)]
    background = np.fft.rfft(rng.standard_normal(len(speech)))
    hertz = np.fft.rfftfreq(len(speech), 1 / sample_rate)
    colour = np.maximum(hertz, 40) ** (-rng.uniform(0.0, 0.8))
    hum = np.fft.irfft(background * colour, len(speech))
    loud = np.sqrt((speech**2).mean()) + 1e-9
    hum *= loud / hum.std() * 10 ** (-rng.uniform(*snr_db) / 20)
    heard = np.fft.rfft(speech + hum)
    octaves = np.log2(np.maximum(hertz, 100) / 1000)
    heard *= 10 ** (rng.uniform(-1.5, 1.5) * octaves / 20)  # the microphone's slope, decibels
    sound = np.fft.irfft(heard, len(speech))
    peak = 10 ** (-rng.uniform(2.0, 12.0) / 20)
    sound *= peak / np.abs(sound).max()
    return np.rint(sound * 32767).astype(np.int16)
