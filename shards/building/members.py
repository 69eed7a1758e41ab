"""What a sample is made of, as files: its images, its sound, and what is known of their source.

Not for choosing either: ``prepare.py`` does that.
"""

from __future__ import annotations

import hashlib
import os
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from hicmae.files import DigestingFile, file_sha256, naming
from hicmae.media.container import cut_off
from hicmae.media.crops import encode_jpeg
from shards.schema import SAMPLE_RATE, SourceFile
from shards.settings import BuildConfig


def source_file(path: Path, name: str, images: Sequence[Path] | None = None) -> SourceFile:
    """Name, digest and length of a file, and what it lacks; of a folder, of its ``images`` in turn.

    The digest of images is over their names too (each ended by a zero byte, before its content).
    """
    digest, size = hashlib.sha256(), 0
    for file in [path] if images is None else images:
        if images is not None:
            digest.update(os.fsencode(file.name) + b"\0")
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
                size += len(block)
    lacks = cut_off(path) if images is None else ""
    return SourceFile(path=name, sha256=digest.hexdigest(), bytes=size, cut_off=lacks)


def write_wav(path: Path, samples: np.ndarray) -> str:
    """Write 16-bit mono PCM (n,) at ``SAMPLE_RATE``; returns the file's SHA-256."""
    with naming(path), wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return file_sha256(path)


def write_mjpg(
    path: Path, images: Iterable[np.ndarray], config: BuildConfig
) -> tuple[tuple[int, ...], str]:
    """Write N images (H, W, 3) uint8 RGB one after another as JPEG.

    Returns: N + 1 byte offsets, the last being the length; and the file's SHA-256.
    """
    offsets = [0]
    with naming(path), path.open("wb") as file:
        digesting = DigestingFile(file.write)
        for image in images:
            digesting.write(encode_jpeg(image, quality=config.jpeg_quality, chroma=config.chroma))
            offsets.append(digesting.num_bytes)
    return tuple(offsets), digesting.sha256
