"""The bytes of one sample, cut and decoded into the clip that the network is shown.

For: both readers. Not for: finding samples in tars (``whole_sample.py``, ``random_access.py``),
JPEG (``images.py``), the wav format (``sound.py``), choosing frames (``hicmae/views.py``), or
anything after uint8 frames and int16 sound (``hicmae/transforms``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hicmae.settings import InputConfig
from hicmae.views import sound_span
from shards.errors import ClipError, Skipped, named_counts
from shards.reading.images import cut_images, decode_image, require_image_size
from shards.schema import SampleInfo
from shards.sound import decode_sound

_NO_SOUND = np.zeros(0, dtype=np.int16)


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
    jpegs: tuple[bytes | memoryview, ...]
    repeats: np.ndarray
    waveform: np.ndarray
    face_size: int

    def require_size(self) -> None:
        """Refuse images of another size than their json says, before they are decoded.

        Raises:
            ClipError: The first one is.
        """
        side = self.face_size
        require_image_size(self.jpegs[0], (side, side), self.where, int(self.images[0]))

    def decode_into(self, frames: np.ndarray, waveform: np.ndarray) -> None:
        """Decode into the place of a clip.

        Args:
            frames: uint8 (T, H, W, 3), overwritten.
            waveform: int16 (clip_samples,), overwritten; zeros after the sound.

        Raises:
            ClipError: An image cannot be decoded, or is not of that size.
        """
        done, last = -1, frames[0]
        for frame, place in zip(frames, self.repeats.tolist(), strict=True):
            if place == done:  # the last image of a short sample is held
                frame[...] = last
            else:
                decode_image(frame, self.jpegs[place], self.where, int(self.images[place]))
            last, done = frame, place
        count = len(self.waveform)
        waveform[:count] = self.waveform
        waveform[count:] = 0

    def decode(self, input: InputConfig) -> dict[str, Any]:
        """Decode into one clip of a batch, as ``make_clip`` gives it."""
        side = self.face_size
        frames = np.empty((len(self.repeats), side, side, 3), dtype=np.uint8)
        waveform = np.empty(input.clip_samples, dtype=np.int16)
        self.decode_into(frames, waveform)
        return {
            "frames": torch.from_numpy(frames),
            "waveform": torch.from_numpy(waveform),
            "num_samples": len(self.waveform),
            "key": self.key,
        }


def make_clip(
    info: SampleInfo,
    mjpg: bytes | memoryview,
    wav: bytes | memoryview | None,
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
    mjpg: bytes | memoryview,
    wav: bytes | memoryview | None,
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
    if (np.diff(indices) > 0).all():  # which is quicker than to look for those that are equal
        distinct, repeats = indices, np.arange(len(indices))
    else:
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
        jpegs=cut_images(mjpg, offsets, distinct, mjpg_start),
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
