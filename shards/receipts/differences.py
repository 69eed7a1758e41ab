"""What differs between two folders of shards, sample by sample: what the index and jsons say, the
lists of refused recordings, and what is seen and heard in some that are decoded.

By how much one preparation is later than another must show even if crops, sizes and rates are
others: the amount of movement is followed, and sounds are correlated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import pandas
from scipy.signal import correlate, correlation_lags

from shards.index import COLUMNS, Index
from shards.reading.files import ShardFiles
from shards.receipts.facts import ASPECTS, SampleFacts, sample_infos
from shards.sample import decode_frames, decode_sound
from shards.schema import SampleInfo, ShardError
from shards.settings import REFUSED_NAME

# Columns that say where the bytes of a sample lie; "mjpg_length" and the like follow the encoding.
_PLACES = {name for name in COLUMNS if name.endswith(("_offset", "_length"))}
_PLACES |= {"key", "shard", "blocks_xxh3"}
_EXAMPLES = 20
_TAIL = 3
_FRAMES = 8  # of a sample, compared pixel by pixel
_MOST_SECONDS = 10.0  # decoded, from the start of each sample
_REACH = 0.4  # seconds; shifts that are looked for, either way
_LEAST_SHIFT_SECONDS = 0.01  # of sound
_THUMBNAIL = 24  # pixels: movement is seen at this size, and coding is not
_NOISE = 0.3  # levels of 255 by which still pictures change through coding
_LEAST_FRAMES = 8
_QUIET = 8.0  # levels of 32768; less tells nothing
# On 26 clips of real and synthetic faces, each shifted by 0, 2 and -4 frames between preparations
# that differed in detector, margin, size and rate, the best shift was the right one every time,
# its correlation 0.54 or more, and 0.05 or more above that of no shift.
_LEAST_CORRELATION = 0.5
_LEAST_GAIN = 0.03


def compare_samples(
    first: Index, first_facts: SampleFacts, second: Index, second_facts: SampleFacts
) -> dict[str, Any]:
    """Compare the samples of two folders by key.

    Returns: ``num_shared``, ``only_first`` and ``only_second`` (keys), ``aspects`` (name →
        ``num`` that differ, and example ``keys``), ``columns`` (of both indexes, those that
        differ: ``num``, ``examples`` as [key, A, B], and of numbers ``largest`` and ``mean``
        difference, B - A), ``num_relabelled`` (another split, speaker or label) and
        ``num_retimed`` (more than one frame longer or shorter).
    """
    a, b = first.table, second.table
    places_b = pandas.Index(b["key"]).get_indexer(pandas.Index(a["key"]))
    rows_a = np.flatnonzero(places_b >= 0)
    rows_b = places_b[rows_a]
    shared_a, shared_b = a.iloc[rows_a], b.iloc[rows_b]
    keys = shared_a["key"].to_numpy()
    aspects: dict[str, Any] = {}
    for name in ASPECTS:
        digests_a, digests_b = first_facts.digests[name][rows_a], second_facts.digests[name][rows_b]
        differs = (digests_a != digests_b).any(axis=1)
        examples = [str(key) for key in keys[differs][:_EXAMPLES]]
        aspects[name] = {"num": int(differs.sum()), "keys": examples}
    columns: dict[str, Any] = {}
    relabelled = np.zeros(len(keys), dtype=bool)
    labels = {"split", "speaker", *first.label_columns, *second.label_columns}
    for name in [column for column in a.columns if column in b.columns]:
        if name in _PLACES:
            continue
        differs, summary = _compare_column(keys, shared_a[name], shared_b[name])
        if differs.any():
            columns[name] = summary
        if name in labels:
            relabelled |= differs
    one_frame = 1 / np.minimum(shared_a["fps"].to_numpy(), shared_b["fps"].to_numpy())
    change = np.abs(shared_b["seconds"].to_numpy() - shared_a["seconds"].to_numpy())
    retimed = change > 1.001 * one_frame
    return {
        "num_shared": len(keys),
        "only_first": [str(key) for key in a["key"].to_numpy()[places_b < 0]],
        "only_second": [str(key) for key in b["key"][~b["key"].isin(a["key"])]],
        "aspects": aspects,
        "columns": columns,
        "num_relabelled": int(relabelled.sum()),
        "num_retimed": int(retimed.sum()),
    }


def compare_refusals(
    first: Path, first_facts: SampleFacts, second: Path, second_facts: SampleFacts
) -> dict[str, Any]:
    """Compare the lists of refused recordings.

    Recordings lie in other places on other machines: those of equal name and two folders above
    (more, where these are those of others too) are taken for the same, and a sample is found by the
    path its json tells, which is relative. Several causes of one recording, segment by segment, are
    told together.

    Returns: ``only_first`` and ``only_second``: list of ``path``, ``cause``, and ``sample``,
        whether the other side has a sample of it; ``other_cause``: list of ``path`` and
        ``causes``; ``num_both``.
    Raises: ShardError: a list that cannot be read.
    """
    refused = [_read_refused(folder) for folder in (first, second)]
    length = _telling(refused)
    sides = [
        {PurePosixPath(path).parts[-length:]: (path, cause) for path, cause in each.items()}
        for each in refused
    ]
    sources = [set(facts.sources) for facts in (first_facts, second_facts)]
    both = [tail for tail in sides[0] if tail in sides[1]]
    only = [
        [
            {"path": path, "cause": cause, "sample": bool(_ends(path) & sources[there])}
            for tail, (path, cause) in sides[here].items()
            if tail not in sides[there]
        ]
        for here, there in ((0, 1), (1, 0))
    ]
    return {
        "only_first": only[0],
        "only_second": only[1],
        "other_cause": [
            {"path": sides[0][tail][0], "causes": [sides[0][tail][1], sides[1][tail][1]]}
            for tail in both
            if sides[0][tail][1] != sides[1][tail][1]
        ],
        "num_both": len(both),
    }


def compare_signals(first: Index, second: Index, num_samples: int) -> dict[str, Any]:
    """Decode so many of the samples that both folders have, evenly spread, and compare them.

    Returns: ``samples`` (of each ``compare_sample``'s result and its ``key``), ``median_psnr_db``
        (None: nothing compared, or identical), ``num_shifted``: samples whose picture is a frame
        or more, or whose sound 10 ms or more, from where it is in the other folder.
    Raises: ShardError: a sample cannot be read; names it.
    """
    keys_a, keys_b = (index.table["key"].astype(str).to_numpy() for index in (first, second))
    shared, rows_a, rows_b = np.intersect1d(keys_a, keys_b, return_indices=True)
    places = np.linspace(0, len(shared) - 1, min(num_samples, len(shared)))
    chosen = places.round().astype(int)
    files = [ShardFiles(index.folder) for index in (first, second)]
    infos = [
        sample_infos(index, rows[chosen].tolist())
        for index, rows in ((first, rows_a), (second, rows_b))
    ]
    samples = []
    for place, (_, info_a), (_, info_b) in zip(chosen, *infos, strict=True):
        a = _decoded(first, files[0], int(rows_a[place]), info_a)
        b = _decoded(second, files[1], int(rows_b[place]), info_b)
        samples.append({"key": str(shared[place]), **compare_sample(a, b)})
    ratios = [
        math.inf if sample["psnr_db"] is None else sample["psnr_db"]
        for sample in samples
        if sample["mean_difference"] is not None
    ]
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
        frames: uint8 (T, H, W, 3); T is 0 of sound alone.
        sound: int16 (n,); empty without sound.
        sample_rate: Of the sound, Hz.
    """

    frames: np.ndarray
    fps: float
    sound: np.ndarray
    sample_rate: int


def compare_sample(a: DecodedSample, b: DecodedSample) -> dict[str, Any]:
    """Compare one sample of two preparations.

    Shifts are B's against A's: positive where things happen later in B.

    Returns: ``mean_difference`` (levels of 255, of images of equal times, the larger ones made as
        small as the others; None: not both have a picture), ``psnr_db`` (None: identical, or not
        both), ``picture_shift_frames`` (of the faster rate; None: too still, or nothing in
        common), ``sound_correlation`` (as they are), ``sound_shift_samples`` and
        ``sound_shift_ms`` (None: silent, absent, or nothing in common), ``sync_change_ms``: by how
        much sound moved against the picture, ``shifted``.
    """
    fps = max(a.fps, b.fps)
    # One picture alone has nothing to be compared with: the digests of the pictures tell of it.
    difference, psnr, picture = None, None, None
    if len(a.frames) and len(b.frames):
        difference, psnr = _pixels(a, b)
        picture = picture_shift(a.frames, a.fps, b.frames, b.fps, max_seconds=_REACH)
    sound, correlation = None, None
    if a.sample_rate == b.sample_rate:
        sound, correlation = sound_shift(a.sound, b.sound, a.sample_rate, max_seconds=_REACH)
    sound_seconds = None if sound is None else sound / a.sample_rate
    sync = None
    if picture is not None and sound_seconds is not None:
        sync = round(1000 * (sound_seconds - picture / fps), 2)
    least = fps / min(a.fps, b.fps)  # a frame of the slower rate
    shifted = (picture is not None and abs(picture) >= least) or (
        sound_seconds is not None and abs(sound_seconds) >= _LEAST_SHIFT_SECONDS
    )
    return {
        "mean_difference": None if difference is None else round(difference, 3),
        "psnr_db": None if psnr is None else round(psnr, 2),
        "picture_shift_frames": picture,
        "sound_correlation": None if correlation is None else round(correlation, 5),
        "sound_shift_samples": sound,
        "sound_shift_ms": None if sound_seconds is None else round(1000 * sound_seconds, 2),
        "sync_change_ms": sync,
        "shifted": shifted,
    }


def picture_shift(
    first: np.ndarray,
    first_fps: float,
    second: np.ndarray,
    second_fps: float,
    *,
    max_seconds: float,
) -> int | None:
    """Find the shift by how much the pictures move from one frame to the next.

    The amount of movement is one number a frame, which other crops of the same face share.

    Args:
        first: uint8 (T, H, W, 3).
        second: uint8 (T', H', W', 3).
        max_seconds: Shifts that are looked for, either way.

    Returns: frames of the faster rate by which the second is later; None where too little moves,
        or the movements have nothing in common.
    """
    fast, slow = max(first_fps, second_fps), min(first_fps, second_fps)
    a, b = _thumbnails(first), _thumbnails(second)
    # Both at the slower rate: frames that were repeated to reach the faster one do not move.
    times = np.arange(int((len(a) - 1) / first_fps * slow) + 1) / slow
    places_a = np.rint(times * first_fps).astype(int)
    scores: dict[int, float] = {}
    reach = round(max_seconds * fast)
    for shift in range(-reach, reach + 1):
        places_b = np.rint((times + shift / fast) * second_fps).astype(int)
        inside = (places_b >= 0) & (places_b < len(b))
        if inside.sum() < max(_LEAST_FRAMES, len(times) / 2):
            continue
        scores[shift] = _correlation(_movement(a[places_a[inside]]), _movement(b[places_b[inside]]))
    return _best(scores)


def sound_shift(
    first: np.ndarray, second: np.ndarray, sample_rate: int, *, max_seconds: float
) -> tuple[int | None, float | None]:
    """Find the shift of two sounds by their cross-correlation.

    Args:
        first: int16 (n,).
        second: int16 (n',).
        sample_rate: Of both, Hz.
        max_seconds: Shifts that are looked for, either way.

    Returns: samples by which the second is later (None: nothing in common), and the correlation
        of the two as they are, -1..1; both None where either is silent or absent.
    """
    length = min(len(first), len(second))
    if not length:
        return None, None
    x, y = (sound[:length] - sound[:length].mean() for sound in (first, second))
    if min(float(x.std()), float(y.std())) < _QUIET:
        return None, None
    products = correlate(y, x, method="fft") / np.sqrt((x**2).sum() * (y**2).sum())
    lags = correlation_lags(length, length)
    near = np.abs(lags) <= min(max_seconds * sample_rate, length / 2)
    scores = dict(zip(lags[near].tolist(), products[near].tolist(), strict=True))
    return _best(scores), float(scores[0])


def _compare_column(
    keys: np.ndarray, first: pandas.Series[Any], second: pandas.Series[Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Where two columns of the same samples differ (a gap equals a gap), and a summary."""
    gaps_a, gaps_b = first.isna().to_numpy(), second.isna().to_numpy()
    known = ~gaps_a & ~gaps_b
    differs = gaps_a != gaps_b
    numeric = all(
        pandas.api.types.is_numeric_dtype(side) and not pandas.api.types.is_bool_dtype(side)
        for side in (first, second)
    )
    change = np.zeros(0)
    if numeric:
        a, b = (side.to_numpy(dtype=np.float64, na_value=np.nan) for side in (first, second))
        with np.errstate(invalid="ignore"):
            differs |= known & (a != b)
        change = (b - a)[known & differs]
    else:  # one side may hold as text what the other holds as a number
        a, b = (side.map(_text).to_numpy() for side in (first, second))
        differs |= known & (a != b)
    examples = [
        [str(keys[row]), _plain(first.iloc[row]), _plain(second.iloc[row])]
        for row in np.flatnonzero(differs)[:_EXAMPLES]
    ]
    summary: dict[str, Any] = {"num": int(differs.sum()), "examples": examples}
    if len(change):
        summary["largest"] = float(change[np.abs(change).argmax()])
        summary["mean"] = float(change.mean())
    return differs, summary


def _text(value: Any) -> str:
    """A value as text; 1 and 1.0 are the same class."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _plain(value: Any) -> Any:
    if pandas.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def _read_refused(folder: Path) -> dict[str, str]:
    """Path → cause, or causes; nothing where there is no list."""
    path = folder / REFUSED_NAME
    if not path.is_file():
        return {}
    refused: dict[str, set[str]] = {}
    try:
        # A path may hold what else ``str.splitlines`` takes for the end of a line.
        for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
            entry = json.loads(line)
            refused.setdefault(str(entry["path"]), set()).add(str(entry["cause"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: cannot be read ({error}); build these shards again") from error
    return {name: ", ".join(sorted(causes)) for name, causes in refused.items()}


def _telling(lists: Sequence[Iterable[str]]) -> int:
    """How many of the last parts of paths tell those of each list apart."""
    paths = [[PurePosixPath(path).parts for path in each] for each in lists]
    longest = max((len(parts) for each in paths for parts in each), default=0)
    for length in range(_TAIL, longest):
        if all(len({parts[-length:] for parts in each}) == len(each) for each in paths):
            return length
    return max(_TAIL, longest)


def _ends(path: str) -> set[str]:
    """The path, and what is left of it without its first folders: as jsons name recordings."""
    parts = PurePosixPath(path).parts
    return {str(PurePosixPath(*parts[start:])) for start in range(len(parts))}


def _decoded(index: Index, files: ShardFiles, row: int, info: SampleInfo) -> DecodedSample:
    place = index.table.iloc[row]
    where = f"{index.folder / place['shard']}: sample {info.key!r}"
    num_frames = min(info.num_frames, max(1, round(_MOST_SECONDS * info.fps)))
    frames = np.zeros((0, 1, 1, 3), dtype=np.uint8)
    if info.has_images:
        offsets = info.frame_offsets[: num_frames + 1]
        mjpg = files.read(place["shard"], int(place["mjpg_offset"]), offsets[-1], where)
        frames = decode_frames(mjpg, offsets, np.arange(num_frames), where)
    sound = np.zeros(0, dtype=np.int16)
    if info.has_sound:
        wav = files.read(place["shard"], int(place["wav_offset"]), int(place["wav_length"]), where)
        most = round(_MOST_SECONDS * info.sample_rate)
        sound = decode_sound(wav, 0, min(info.num_samples, most), where)
    return DecodedSample(
        frames=frames,
        fps=info.fps,
        sound=sound,
        sample_rate=info.sample_rate,
    )


def _pixels(a: DecodedSample, b: DecodedSample) -> tuple[float, float | None]:
    """Mean absolute difference, levels, and PSNR, dB (None: identical), at equal times."""
    last = min((len(a.frames) - 1) / a.fps, (len(b.frames) - 1) / b.fps)
    side = min(a.frames.shape[1], b.frames.shape[1])
    absolute, squared, count = 0.0, 0.0, 0
    for time in np.linspace(0, last, _FRAMES):
        images = [
            cv2.resize(frames[round(time * fps)], (side, side), interpolation=cv2.INTER_AREA)
            for frames, fps in ((a.frames, a.fps), (b.frames, b.fps))
        ]
        change = images[0].astype(np.float64) - images[1]
        absolute += float(np.abs(change).sum())
        squared += float((change**2).sum())
        count += change.size
    psnr = None if squared == 0 else 10 * math.log10(255**2 * count / squared)
    return absolute / count, psnr


def _best(scores: dict[int, float]) -> int | None:
    """The shift that fits best, or 0 if that is hardly better; None if nothing fits."""
    best = max(scores, key=lambda shift: (scores[shift], -abs(shift)), default=0)
    if scores.get(best, 0.0) < _LEAST_CORRELATION:
        return None
    return 0 if scores.get(0, -1.0) > scores[best] - _LEAST_GAIN else best


def _thumbnails(frames: np.ndarray) -> np.ndarray:
    small = [
        cv2.resize(frame, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
        for frame in frames
    ]
    return np.asarray(np.stack(small).mean(axis=3, dtype=np.float64))


def _movement(pictures: np.ndarray) -> np.ndarray:
    """How much changes from each picture to the next, (T - 1,), in logarithms: a blink counts
    beside a turn of the head.
    """
    change = np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2))
    return np.asarray(np.log(_NOISE + change))


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / scale if scale > 1e-9 else 0.0
