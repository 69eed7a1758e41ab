"""The bytes of one sample, cut and decoded into the clip that the network is shown.

For: both readers; everything that knows JPEG. Not for: finding samples in tars
(``streaming.py``, ``random_access.py``), the wav format (``sound.py``), choosing frames
(``hicmae/views.py``), or anything after uint8 frames and int16 sound (``hicmae/transforms``).

Cutting (bytes to fewer bytes) and decoding are two steps, so that a shuffle buffer holds the 16
images of a clip rather than the 200 of its sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from hicmae.settings import InputConfig
from hicmae.views import sound_span
from shards.errors import ClipError, Skipped, named_counts
from shards.schema import SampleInfo
from shards.sound import decode_sound

_NO_SOUND = np.zeros(0, dtype=np.int16)
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


@dataclass(frozen=True, kw_only=True)
class ClipBytes:
    """One clip, its images still encoded.

    Args:
        key: Of the sample.
        where: How an error names it.
        images: Numbers, within the sample, of the images that occur in the clip; ascending.
        jpegs: These images.
        repeats: (T,) which of them each frame of the clip is.
        waveform: int16 (n,), at most as long as the clip; empty without sound.
        face_size: Side that the images must have, pixels.
    """

    key: str
    where: str
    images: np.ndarray
    jpegs: tuple[bytes, ...]
    repeats: np.ndarray
    waveform: np.ndarray
    face_size: int

    def decode(self, input: InputConfig) -> dict[str, Any]:
        """Decode into one clip of a batch, as ``make_clip`` gives it."""
        side = self.face_size
        distinct = np.empty((len(self.jpegs), side, side, 3), dtype=np.uint8)
        for out, jpeg, number in zip(distinct, self.jpegs, self.images, strict=True):
            _decode_into(out, jpeg, f"{self.where}: image {number}")
        whole = len(self.jpegs) == len(self.repeats)
        frames = distinct if whole else distinct[self.repeats]  # (T, H, W, 3)
        waveform = np.zeros(input.clip_samples, dtype=np.int16)
        waveform[: len(self.waveform)] = self.waveform
        return {
            "frames": torch.from_numpy(frames),
            "waveform": torch.from_numpy(waveform),
            "num_samples": len(self.waveform),
            "key": self.key,
        }


def make_clip(
    info: SampleInfo,
    mjpg: bytes,
    wav: bytes | None,
    indices: np.ndarray,
    input: InputConfig,
    where: str | None = None,
) -> dict[str, Any]:
    """Decode one clip of a sample.

    Args:
        info: Its json.
        mjpg: Its images.
        wav: Its sound, None if it has none.
        indices: (T,) frames of the clip, ascending.
        input: Its geometry.
        where: How an error names the sample.

    Returns: "frames" uint8 (T, H, W, 3) RGB, "waveform" int16 (clip_samples,) zero-padded,
        "num_samples" valid sound samples (0: no sound), "key".

    Raises:
        ClipError: The bytes are not what the json says.
    """
    return cut_clip(info, mjpg, wav, indices, input, where).decode(input)


def cut_clip(
    info: SampleInfo,
    mjpg: bytes,
    wav: bytes | None,
    indices: np.ndarray,
    input: InputConfig,
    where: str | None = None,
    *,
    mjpg_start: int = 0,
) -> ClipBytes:
    """Take the bytes that one clip needs out of its sample.

    Args, and Raises, as in ``make_clip``, but
        mjpg: May be a part that holds the clip's images.
        wav: May end where the clip's sound ends.
        mjpg_start: Where in the whole the part of the mjpg begins, bytes.
    """
    where = where or f"sample {info.key!r}"
    check_rates(info, input, where)
    distinct, repeats = np.unique(indices, return_inverse=True)
    offsets = info.frame_offsets
    end = mjpg_start + len(mjpg)
    if end < offsets[int(distinct[-1]) + 1]:
        raise ClipError(
            f"{where}: its mjpg ends at byte {end}, its json says {offsets[-1]}; rebuild it",
            "truncated",
        )
    start, stop = sound_span(int(indices[0]), input)
    return ClipBytes(
        key=info.key,
        where=where,
        images=distinct,
        jpegs=_jpegs(mjpg, offsets, distinct, mjpg_start),
        repeats=repeats,
        waveform=np.zeros(0, dtype=np.int16)
        if wav is None
        else decode_sound(wav, start, stop, where),
        face_size=info.face_size,
    )


def check_rates(info: SampleInfo, input: InputConfig, where: str) -> None:
    """Refuse a sample whose clock is not the network's.

    Raises:
        ClipError: Frame rate or sampling rate differ.
    """
    if info.fps != input.fps or (info.has_sound and info.sample_rate != input.sample_rate):
        raise ClipError(
            f"{where}: {info.fps:g} fps and {info.sample_rate} Hz, but the model takes "
            f"{input.fps:g} fps and {input.sample_rate} Hz; rebuild the shards at that rate",
            "wrong-rate",
        )


def decode_frames(
    mjpg: bytes, frame_offsets: Sequence[int], indices: np.ndarray, where: str = "mjpg"
) -> np.ndarray:
    """Decode chosen images of a Motion-JPEG stream.

    Args:
        mjpg: JPEG images one after another.
        frame_offsets: N + 1 byte offsets into it.
        indices: (T,) images to decode; one asked for twice is decoded once.
        where: How an error names the stream.

    Returns: uint8 (T, H, W, 3), RGB.

    Raises:
        ClipError: An image cannot be decoded, or they differ in size.
    """
    distinct, repeats = np.unique(indices, return_inverse=True)
    jpegs = _jpegs(mjpg, frame_offsets, distinct)
    first = _decode_image(jpegs[0], f"{where}: image {distinct[0]}")
    frames = np.empty((len(jpegs), *first.shape), dtype=np.uint8)
    frames[0] = first
    for number in range(1, len(jpegs)):
        _decode_into(frames[number], jpegs[number], f"{where}: image {distinct[number]}")
    return frames if len(jpegs) == len(indices) else frames[repeats]


def collate(clips: Sequence[dict[str, Any] | Skipped]) -> dict[str, Any]:
    """Make a batch of clips; the ``collate_fn`` of a DataLoader.

    Args:
        clips: What ``make_clip`` gives, possibly with "label", "target", "sample", "view"; a
            ``Skipped`` is left out and counted.

    Returns: "frames" uint8 (B, T, H, W, 3), "waveform" int16 (B, clip_samples), "num_samples"
        int64 (B,), "keys" list of B strings, "label", "sample", "view" int64 (B,) and "target"
        float32 (B, D) where the clips have them, "skipped" dict of cause to count.

    Raises:
        ClipError: Nothing is left, or the clips differ in size.
    """
    skipped = Counter(clip.cause for clip in clips if isinstance(clip, Skipped))
    kept = [clip for clip in clips if not isinstance(clip, Skipped)]
    if not kept:
        raise ClipError(f"every sample of a batch was skipped ({named_counts(skipped)})")
    sizes = {tuple(clip["frames"].shape): clip["key"] for clip in kept}
    if len(sizes) > 1:
        found = ", ".join(f"{key!r}: {'x'.join(map(str, size))}" for size, key in sizes.items())
        raise ClipError(
            f"samples of one batch differ in size ({found}); build all shards with one face_size"
        )
    batch: dict[str, Any] = {"keys": [clip["key"] for clip in kept], "skipped": dict(skipped)}
    for name, first in kept[0].items():
        if isinstance(first, torch.Tensor):
            batch[name] = torch.stack([clip[name] for clip in kept])
        elif isinstance(first, int):
            batch[name] = torch.tensor([clip[name] for clip in kept])
    return batch


def _jpegs(
    mjpg: bytes, frame_offsets: Sequence[int], images: np.ndarray, start: int = 0
) -> tuple[bytes, ...]:
    spans = [(frame_offsets[i] - start, frame_offsets[i + 1] - start) for i in images.tolist()]
    return tuple(mjpg[first:last] for first, last in spans)


def _decode_image(jpeg: bytes, where: str) -> np.ndarray:
    """One image, uint8 (H, W, 3), RGB."""
    # A decoder fills the rest of a cut-off image with grey and says nothing; the end marker tells.
    if jpeg[:2] == _JPEG_START and jpeg[-2:] == _JPEG_END:
        image = cv2.imdecode(np.frombuffer(jpeg, dtype=np.uint8), cv2.IMREAD_COLOR_RGB)
        if image is not None:
            return image
    raise ClipError(f"{where} cannot be decoded ({len(jpeg)} bytes); rebuild it", "bad-image")


def _decode_into(out: np.ndarray, jpeg: bytes, where: str) -> None:
    image = _decode_image(jpeg, where)
    if image.shape != out.shape:
        found, wanted = "x".join(map(str, image.shape[:2])), "x".join(map(str, out.shape[:2]))
        raise ClipError(f"{where} is {found} pixels, not {wanted}; rebuild it", "bad-image")
    out[...] = image
