"""Spans of 16-bit mono PCM wav files, from their bytes, without reading the rest of a sample."""

from __future__ import annotations

import struct

import numpy as np

from shards.errors import ClipError

# RIFF format tags: plain PCM, and "see the sub-format", which is PCM again for 16-bit mono.
_PCM, _EXTENSIBLE = 1, 0xFFFE


def decode_sound(wav: bytes | memoryview, start: int, stop: int, where: str = "wav") -> np.ndarray:
    """Cut a span out of a 16-bit mono PCM wav file.

    Args:
        wav: The whole file, or a part from its beginning if the span lies in it.
        start: First sample.
        stop: One past the last; what lies beyond the end is left out.
        where: How an error names the file.

    Returns: int16 (at most stop - start,), a view of the file's bytes where they may be read as
        they are.

    Raises:
        ClipError: It is no such file, or shorter than it says.
    """
    offset, num_samples = sound_layout(wav, where)
    stop = min(stop, num_samples)
    if offset + 2 * stop > len(wav):
        raise ClipError(
            f"{where}: its wav says {num_samples} samples and holds {(len(wav) - offset) // 2}; "
            "rebuild it",
            "truncated",
        )
    count = max(0, stop - start)
    if not count:
        return np.zeros(0, dtype=np.int16)
    samples = np.frombuffer(wav, dtype="<i2", count=count, offset=offset + 2 * start)
    return samples.astype(np.int16, copy=False)


def sound_layout(header: bytes | memoryview, where: str = "wav") -> tuple[int, int]:
    """Where the samples of a 16-bit mono PCM wav file begin, and how many it says there are.

    Args:
        header: The file, or so much of it that the head of its ``data`` chunk is included.
        where: How an error names the file.

    Raises:
        ClipError: Not such a file.

    Source: Multimedia Programming Interface and Data Specifications 1.0 (RIFF), IBM and
        Microsoft, 1991.
    """
    if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
        raise ClipError(
            f"{where}: its wav begins with {bytes(header[:4])!r}, not RIFF/WAVE; rebuild it",
            "bad-sound",
        )
    form, position = None, 12
    while position + 8 <= len(header):
        name, size = struct.unpack_from("<4sI", header, position)
        position += 8
        if name == b"fmt " and position + 16 <= len(header):
            tag, channels, _, _, _, bits = struct.unpack_from("<HHIIHH", header, position)
            form = (tag in (_PCM, _EXTENSIBLE), channels, bits)
        elif name == b"data":
            if form != (True, 1, 16):
                raise ClipError(
                    f"{where}: its wav is not 16-bit mono PCM (PCM, channels, bits: {form}); "
                    "rebuild it",
                    "bad-sound",
                )
            return position, size // 2
        position += size + size % 2  # chunks are padded to even length
    raise ClipError(f"{where}: its wav has no data chunk; rebuild it", "bad-sound")
