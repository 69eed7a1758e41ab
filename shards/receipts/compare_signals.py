"""How far the pictures and sounds of the same samples are apart, and whether time has slipped.

For: comparing two folders of shards by what is in them. Not for: digests, which say whether
anything differs at all (``compare_samples.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from shards.index import Index
from shards.reading.files import ShardFiles
from shards.reading.images import decode_frames
from shards.receipts.sample_facts import sample_infos
from shards.receipts.time_shift import picture_shift, sound_shift
from shards.schema import SampleInfo
from shards.sound import decode_sound

_LEAST_SHIFT_SECONDS = 0.01  # of sound


@dataclass(frozen=True, kw_only=True)
class SignalConfig:
    """What is decoded.

    Args:
        num_samples: Of those that both folders have, evenly spread.
        num_frames: Images of each that are compared pixel by pixel.
        max_seconds: From the start of each sample.
        max_shift_seconds: Shifts that are looked for, either way.
    """

    num_samples: int
    num_frames: int = 8
    max_seconds: float = 10.0
    max_shift_seconds: float = 0.4


def compare_signals(first: Index, second: Index, config: SignalConfig) -> dict[str, Any]:
    """Decode some of the samples that both folders have, and compare them.

    Returns: ``samples`` (of each ``compare_sample``'s result and its ``key``), ``median_psnr_db``
        (None: nothing compared, or identical), ``num_shifted``: samples whose picture is a frame
        or more, or whose sound 10 ms or more, from where it is in the other folder.

    Raises:
        ShardError: A sample cannot be read; names it.
    """
    keys_a, keys_b = (index.table["key"].astype(str).to_numpy() for index in (first, second))
    shared, rows_a, rows_b = np.intersect1d(keys_a, keys_b, return_indices=True)
    places = np.linspace(0, len(shared) - 1, min(config.num_samples, len(shared)))
    chosen = places.round().astype(int)
    files = [ShardFiles(index.folder) for index in (first, second)]
    infos = [
        sample_infos(index, rows[chosen].tolist())
        for index, rows in ((first, rows_a), (second, rows_b))
    ]
    samples = []
    for place, (_, info_a), (_, info_b) in zip(chosen, *infos, strict=True):
        a = _read(first, files[0], int(rows_a[place]), info_a, config)
        b = _read(second, files[1], int(rows_b[place]), info_b, config)
        samples.append({"key": str(shared[place]), **compare_sample(a, b, config)})
    ratios = [math.inf if sample["psnr_db"] is None else sample["psnr_db"] for sample in samples]
    median = float(np.median(ratios)) if ratios else math.inf
    return {
        "samples": samples,
        "median_psnr_db": median if math.isfinite(median) else None,
        "num_shifted": sum(sample["shifted"] for sample in samples),
    }


@dataclass(frozen=True, kw_only=True)
class DecodedSample:
    """One sample as signals.

    Args:
        frames: uint8 (T, H, W, 3).
        fps: Of the frames.
        sound: int16 (n,); empty without sound.
        sample_rate: Of the sound, Hz.
    """

    frames: np.ndarray
    fps: float
    sound: np.ndarray
    sample_rate: int


def compare_sample(a: DecodedSample, b: DecodedSample, config: SignalConfig) -> dict[str, Any]:
    """Compare one sample of two preparations.

    Shifts are B's against A's: positive where things happen later in B.

    Returns: ``mean_difference`` (levels of 255, of images of equal times, the larger ones made as
        small as the others), ``psnr_db`` (None: identical), ``picture_shift_frames`` (of the
        faster rate; None: too still, or nothing in common), ``sound_correlation`` (as they are),
        ``sound_shift_samples`` and ``sound_shift_ms`` (None: silent, absent, or nothing in
        common), ``sync_change_ms``: by how much sound moved against the picture, ``shifted``.
    """
    difference, psnr = _pixels(a, b, config.num_frames)
    fps = max(a.fps, b.fps)
    reach = config.max_shift_seconds
    picture = picture_shift(a.frames, a.fps, b.frames, b.fps, max_seconds=reach)
    sound, correlation = None, None
    if a.sample_rate == b.sample_rate:
        sound, correlation = sound_shift(a.sound, b.sound, a.sample_rate, max_seconds=reach)
    sound_seconds = None if sound is None else sound / a.sample_rate
    sync = None
    if picture is not None and sound_seconds is not None:
        sync = round(1000 * (sound_seconds - picture / fps), 2)
    least = fps / min(a.fps, b.fps)  # a frame of the slower rate
    shifted = (picture is not None and abs(picture) >= least) or (
        sound_seconds is not None and abs(sound_seconds) >= _LEAST_SHIFT_SECONDS
    )
    return {
        "mean_difference": round(difference, 3),
        "psnr_db": None if psnr is None else round(psnr, 2),
        "picture_shift_frames": picture,
        "sound_correlation": None if correlation is None else round(correlation, 5),
        "sound_shift_samples": sound,
        "sound_shift_ms": None if sound_seconds is None else round(1000 * sound_seconds, 2),
        "sync_change_ms": sync,
        "shifted": shifted,
    }


def _read(
    index: Index, files: ShardFiles, row: int, info: SampleInfo, config: SignalConfig
) -> DecodedSample:
    """Decode the beginning of a sample."""
    place = index.table.iloc[row]
    where = f"{index.folder / place['shard']}: sample {info.key!r}"
    num_frames = min(info.num_frames, max(1, round(config.max_seconds * info.fps)))
    offsets = info.frame_offsets[: num_frames + 1]
    mjpg = files.read(place["shard"], int(place["mjpg_offset"]), offsets[-1], where)
    sound = np.zeros(0, dtype=np.int16)
    if info.has_sound:
        wav = files.read(place["shard"], int(place["wav_offset"]), int(place["wav_length"]), where)
        sound = decode_sound(
            wav,
            0,
            min(info.num_samples, round(config.max_seconds * info.sample_rate)),
            where,
        )
    return DecodedSample(
        frames=decode_frames(mjpg, offsets, np.arange(num_frames), where),
        fps=info.fps,
        sound=sound,
        sample_rate=info.sample_rate,
    )


def _pixels(a: DecodedSample, b: DecodedSample, num_frames: int) -> tuple[float, float | None]:
    """Mean absolute difference, levels, and PSNR, dB (None: identical), at equal times."""
    last = min((len(a.frames) - 1) / a.fps, (len(b.frames) - 1) / b.fps)
    side = min(a.frames.shape[1], b.frames.shape[1])
    absolute, squared, count = 0.0, 0.0, 0
    for time in np.linspace(0, last, num_frames):
        images = [
            _resized(one.frames[round(time * one.fps)], side).astype(np.float64) for one in (a, b)
        ]
        change = images[0] - images[1]
        absolute += float(np.abs(change).sum())
        squared += float((change**2).sum())
        count += change.size
    psnr = None if squared == 0 else 10 * math.log10(255**2 * count / squared)
    return absolute / count, psnr


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """A square picture of another size, by averaging."""
    if image.shape[0] == side:
        return image
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))
