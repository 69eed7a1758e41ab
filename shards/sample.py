"""The bytes of one sample, cut and decoded into the clip that the network is shown; both readers.

Images are decoded by libjpeg-turbo straight into the place they have in their batch. Through
OpenCV, which uses the same library and cannot be given a place, the same pixels took 1.4 times as
long, and their copies came on top.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
import xxhash

from hicmae.settings import InputConfig
from hicmae.views import sound_span
from shards.schema import ClipError, SampleInfo, Skipped, named_counts

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# RIFF format tags: plain PCM, and "see the sub-format", which is PCM again for 16-bit mono.
_PCM, _EXTENSIBLE = 1, 0xFFFE


@dataclass(frozen=True, kw_only=True)
class ClipBytes:
    """One clip, its images still encoded.

    Args:
        where: How an error names it.
        images: Numbers, within the sample, of the images that occur in the clip; ascending.
        jpegs: These images; none where it has no picture, or none is read.
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
    heard: bool = True

    @property
    def seen(self) -> bool:
        """Whether it has a picture."""
        return bool(self.jpegs)

    def require_size(self) -> None:
        """Refuse images of another size than their json says, before they are decoded.

        Raises: ClipError: the first one is.
        """
        side = self.face_size
        if self.seen:
            require_image_size(self.jpegs[0], (side, side), self.where, int(self.images[0]))

    def decode_into(self, frames: np.ndarray | None, waveform: np.ndarray | None) -> None:
        """Decode into the place of a clip.

        Args:
            frames: uint8 (T, H, W, 3), overwritten, with zeros where there is no picture; None: no
                place.
            waveform: int16 (clip_samples,), overwritten; zeros after the sound.

        Raises: ClipError: an image cannot be decoded, or is not of that size.
        """
        if waveform is not None:
            count = len(self.waveform)
            waveform[:count] = self.waveform
            waveform[count:] = 0
        if frames is None:
            return
        if not self.seen:
            frames[...] = 0
            return
        done, last = -1, frames[0]
        for frame, place in zip(frames, self.repeats.tolist(), strict=True):
            if place == done:  # the last image of a short sample is held
                frame[...] = last
            else:
                decode_image(frame, self.jpegs[place], self.where, int(self.images[place]))
            last, done = frame, place

    def decode(self, input: InputConfig, modalities: str = "audio-video") -> dict[str, Any]:
        """Decode into one clip of a batch.

        Returns: "frames" uint8 (T, H, W, 3) RGB if it has a picture, "waveform" int16
            (clip_samples,) zero-padded, "num_samples" valid sound samples (0: no sound), "key", and
            of both modalities "seen" and "heard", whether it has its picture and its sound.
        Raises: ClipError: the bytes are not what the json says.
        """
        import torch

        side, read = self.face_size, modalities.split("-")
        frames = waveform = None
        if self.seen:
            frames = np.empty((len(self.repeats), side, side, 3), dtype=np.uint8)
        if "audio" in read:
            waveform = np.empty(input.clip_samples, dtype=np.int16)
        self.decode_into(frames, waveform)
        clip: dict[str, Any] = {"key": self.key}
        if frames is not None:
            clip["frames"] = torch.from_numpy(frames)
        if waveform is not None:
            clip |= {"waveform": torch.from_numpy(waveform), "num_samples": len(self.waveform)}
        return clip | ({"seen": self.seen, "heard": self.heard} if len(read) > 1 else {})


def cut_clip(
    info: SampleInfo,
    mjpg: bytes | memoryview | None,
    wav: bytes | memoryview | None,
    indices: np.ndarray,
    input: InputConfig,
    where: str | None = None,
    *,
    mjpg_start: int = 0,
) -> ClipBytes:
    """Take the bytes that one clip needs out of its sample.

    Args:
        mjpg: Its images, or a part that holds the clip's; None if it has none or none are read.
        wav: Its sound; likewise; may end where the clip's sound ends.
        indices: (T,) frames of the clip, ascending.
        mjpg_start: Where in the whole the part of the mjpg begins, bytes.

    Raises: ClipError: the bytes are not what the json says, or its frame or sampling rate is not
        the network's.
    """
    where = where or f"sample {info.key!r}"
    if info.fps != input.fps or (info.has_sound and info.sample_rate != input.sample_rate):
        raise ClipError(
            f"{where}: {info.fps:g} fps and {info.sample_rate} Hz, but the model takes "
            f"{input.fps:g} fps and {input.sample_rate} Hz; rebuild the shards at that rate",
            "wrong-rate",
        )
    if (np.diff(indices) > 0).all():  # which is quicker than to look for those that are equal
        distinct, repeats = indices, np.arange(len(indices))
    else:
        distinct, repeats = np.unique(indices, return_inverse=True)
    offsets = info.frame_offsets
    end = mjpg_start + len(mjpg or b"")
    if mjpg is not None and end < offsets[int(distinct[-1]) + 1]:
        raise ClipError(
            f"{where}: its mjpg ends at byte {end}, its json says {offsets[-1]}; rebuild it",
            "truncated",
        )
    start, stop = sound_span(int(indices[0]), input)
    return ClipBytes(
        key=info.key,
        where=where,
        images=distinct,
        jpegs=() if mjpg is None else cut_images(mjpg, offsets, distinct, mjpg_start),
        repeats=repeats,
        waveform=np.zeros(0, dtype=np.int16)
        if wav is None
        else decode_sound(wav, start, stop, where),
        face_size=info.face_size,
        heard=wav is not None,
    )


def collate(clips: Sequence[dict[str, Any] | Skipped]) -> dict[str, Any]:
    """Make a batch of clips; the ``collate_fn`` of a DataLoader.

    Args: clips: What ``ClipBytes.decode`` gives, possibly with "sample" and "view"; a ``Skipped``
        is left out and counted.
    Returns: "frames" uint8 (B, T, H, W, 3), where any has a picture, with zeros for those that
        have none; "waveform" int16 (B, clip_samples), "num_samples" int64 (B,), "keys" list of B
        strings, "seen" and "heard" bool (B,), "sample" and "view" int64 (B,) where the clips have
        them, "skipped" dict of cause to count.
    Raises: ClipError: nothing is left, or the clips differ in size.
    """
    import torch

    skipped = Counter(clip.cause for clip in clips if isinstance(clip, Skipped))
    kept = [clip for clip in clips if not isinstance(clip, Skipped)]
    if not kept:
        raise ClipError(
            f"every sample of a batch was skipped ({named_counts(skipped)}); `hicmae shards check` "
            "names what is damaged; rebuild it, or take larger batches"
        )
    sizes = {tuple(clip["frames"].shape): clip["key"] for clip in kept if "frames" in clip}
    if len(sizes) > 1:
        found = ", ".join(f"{key!r}: {'x'.join(map(str, size))}" for size, key in sizes.items())
        raise ClipError(
            f"samples of one batch differ in size ({found}); build all shards with one face_size"
        )
    batch: dict[str, Any] = {"keys": [clip["key"] for clip in kept], "skipped": dict(skipped)}
    for size in sizes:
        blank = torch.zeros(size, dtype=torch.uint8)
        batch["frames"] = torch.stack([clip.get("frames", blank) for clip in kept])
    for name, first in kept[0].items():
        if name == "frames":
            continue
        if isinstance(first, torch.Tensor):
            batch[name] = torch.stack([clip[name] for clip in kept])
        elif isinstance(first, int):
            batch[name] = torch.tensor([clip[name] for clip in kept])
    return batch


def uniform_draw(*names: int | str) -> float:
    """A number in [0, 1), the same for the same names and unrelated for others.

    It says where in a sample a training clip begins. A hash of the names rather than a generator
    seeded with them: setting up one of NumPy's takes as long as a third of an image, and what it
    then draws is promised for one NumPy only (NEP 19). The 53 upper bits fill the number, so that
    it is never 1.

    Raises: TypeError: a name is another kind of thing, NumPy's integers among them.
    """
    # JSON's text of them is the same everywhere; what repr shows depends on Python and NumPy.
    return float(xxhash.xxh3_64_intdigest(json.dumps(names).encode()) >> 11) / 2.0**53


def decode_frames(
    mjpg: bytes, frame_offsets: Sequence[int], indices: np.ndarray, where: str = "mjpg"
) -> np.ndarray:
    """Decode chosen images of a Motion-JPEG stream.

    Args:
        frame_offsets: N + 1 byte offsets into it.
        indices: (T,) images to decode; one asked for twice is decoded once.

    Returns: uint8 (T, H, W, 3), RGB.
    Raises: ClipError: an image cannot be decoded, or they differ in size.
    """
    distinct, repeats = np.unique(indices, return_inverse=True)
    jpegs = cut_images(mjpg, frame_offsets, distinct)
    height, width = _size(jpegs[0], where, int(distinct[0]))
    frames = np.empty((len(jpegs), height, width, 3), dtype=np.uint8)
    for frame, jpeg, number in zip(frames, jpegs, distinct.tolist(), strict=True):
        decode_image(frame, jpeg, where, number)
    return frames if len(jpegs) == len(indices) else frames[repeats]


def decode_sound(wav: bytes | memoryview, start: int, stop: int, where: str = "wav") -> np.ndarray:
    """Cut a span out of a 16-bit mono PCM wav file.

    Args:
        wav: The whole file, or a part from its beginning if the span lies in it.
        start: First sample.
        stop: One past the last; what lies beyond the end is left out.

    Returns: int16 (at most stop - start,), a view of the file's bytes where they may be read as
        they are.
    Raises: ClipError: it is no such file, or shorter than it says.
    """
    offset, num_samples = _sound_layout(wav, where)
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


def cut_images(
    mjpg: bytes | memoryview, frame_offsets: Sequence[int], images: np.ndarray, start: int = 0
) -> tuple[bytes | memoryview, ...]:
    """The bytes of chosen images of a Motion-JPEG stream.

    Args:
        frame_offsets: N + 1 byte offsets into the whole.
        images: (K,) their numbers.
        start: Where in the whole the part begins, bytes.
    """
    spans = [(frame_offsets[i] - start, frame_offsets[i + 1] - start) for i in images.tolist()]
    return tuple(mjpg[first:last] for first, last in spans)


def decode_image(out: np.ndarray, jpeg: bytes | memoryview, where: str, number: int) -> None:
    """Decode one image, RGB, into its place.

    Args:
        out: uint8 (H, W, 3), overwritten.
        jpeg: Of that size.

    Raises: ClipError: it is damaged, or of another size.
    """
    try:
        shape = simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out).shape
    except ValueError as error:  # damaged, or larger
        require_image_size(jpeg, (out.shape[0], out.shape[1]), where, number)
        raise _undecodable(jpeg, where, number) from error
    if shape != out.shape or not _is_whole(jpeg):
        require_image_size(jpeg, (out.shape[0], out.shape[1]), where, number)


def require_image_size(
    jpeg: bytes | memoryview, size: tuple[int, int], where: str, number: int
) -> None:
    """Refuse an image of another (height, width), by its header alone.

    Raises: ClipError: it is, or has no header.
    """
    found = _size(jpeg, where, number)
    if found != size:
        raise ClipError(
            f"{where}: image {number} is {found[0]}x{found[1]} pixels, not {size[0]}x{size[1]}; "
            "rebuild it",
            "bad-image",
        )


def _size(jpeg: bytes | memoryview, where: str, number: int) -> tuple[int, int]:
    if _is_whole(jpeg):
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
            return height, width
        except ValueError:
            pass
    raise _undecodable(jpeg, where, number)


def _is_whole(jpeg: bytes | memoryview) -> bool:
    # A decoder fills the rest of a cut-off image with grey and says nothing; the end marker tells.
    return jpeg[:2] == _JPEG_START and jpeg[-2:] == _JPEG_END


def _undecodable(jpeg: bytes | memoryview, where: str, number: int) -> ClipError:
    return ClipError(
        f"{where}: image {number} cannot be decoded ({len(jpeg)} bytes); rebuild it", "bad-image"
    )


def _sound_layout(header: bytes | memoryview, where: str = "wav") -> tuple[int, int]:
    """Where the samples of a 16-bit mono PCM wav file begin, and how many it says there are; given
    its first bytes, up to the head of its ``data`` chunk. Source: Multimedia Programming Interface
    and Data Specifications 1.0 (RIFF), IBM and Microsoft, 1991.
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
