"""The mjpg and wav of one sample, written to files with their digests.

For: the build. Not for: reading them back (``sample.py``, ``sound.py``).
"""

from __future__ import annotations

import hashlib
import wave
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hicmae.media.jpeg import encode_jpeg
from hicmae.media.sound import Sound, rms_db
from shards.schema import SAMPLE_RATE, SoundState

# Encoders end sound some milliseconds before the picture; from here on it is worth saying.
_SHORTER_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class SpanSound:
    """The sound of one sample.

    Args:
        samples: (n,) int16, exactly as long as the picture.
        padded: How many of them are zeros because the recording has no sound there.
        state: ``present``, ``silent`` or ``shorter``.
        loudness_db: Level of what is not padding, decibels relative to full scale; None if silent.
    """

    samples: np.ndarray
    padded: int
    state: SoundState
    loudness_db: float | None


def span_sound(
    sound: Sound | None, start_seconds: float, seconds: float, silence_db: float
) -> SpanSound | None:
    """Cut the sound of a span of the picture; None if there is none in it.

    Args:
        sound: Of the recording, at ``SAMPLE_RATE``; None if it has none.
        start_seconds: Of the span, on the container's clock.
        seconds: Its length.
        silence_db: What counts as silent, decibels relative to full scale; of the part that is
            not padding.
    """
    if sound is None:
        return None
    num_samples = round(seconds * SAMPLE_RATE)
    samples, padded = sound.span(start_seconds, num_samples)
    if padded >= num_samples:
        return None
    level = rms_db(samples) + 10 * np.log10(num_samples / (num_samples - padded))
    if level < silence_db:
        state: SoundState = "silent"
    else:
        state = "shorter" if padded > _SHORTER_SECONDS * SAMPLE_RATE else "present"
    return SpanSound(
        samples=samples,
        padded=padded,
        state=state,
        loudness_db=None if state == "silent" else round(float(level), 3),
    )


def write_wav(path: Path, samples: np.ndarray) -> str:
    """Write 16-bit mono PCM (n,) at ``SAMPLE_RATE``; returns the file's SHA-256."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_mjpg(
    path: Path, images: Iterable[np.ndarray], *, quality: int, chroma: str
) -> tuple[tuple[int, ...], str]:
    """Write images one after another as JPEG.

    Args:
        path: The file.
        images: N of (H, W, 3), uint8, RGB.
        quality: 1..100.
        chroma: A name of ``BuildConfig.chroma``.

    Returns: N + 1 byte offsets, the last being the length; and the file's SHA-256.
    """
    offsets, digest = [0], hashlib.sha256()
    with path.open("wb") as file:
        for image in images:
            data = encode_jpeg(image, quality=quality, chroma=chroma)
            file.write(data)
            digest.update(data)
            offsets.append(offsets[-1] + len(data))
    return tuple(offsets), digest.hexdigest()
