"""What the index and the jsons of a folder of shards say together.

Only the index and the jsons are read, by the offsets of the index; no image is decoded. The bins
of the distributions never change, so that the histograms of two preparations can be laid over one
another.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
import pandas

import hicmae
from hicmae.media.speaking import Agreement, verdict
from shards.index import Index
from shards.reading.files import ShardFiles
from shards.schema import SampleInfo, parse_sample_json

# What is compared by itself, and what it is made of.
ASPECTS = {
    "picture": "the bytes of the images",
    "sound": "the bytes of the sound, its state and padding",
    "time": "frame rate, numbers of frames and sound samples, span",
    "labels": "split, speaker and labels",
    "faces": "how the face was found: policy, detector, coverage, size, runs of frames",
    "source": "the bytes of the recording and of its sound file",
}
CONTENT = ("picture", "sound", "time", "labels")
_DIGEST_BYTES = 16  # of one aspect of one sample: 128 bits never collide by chance
# Decoding, resizing, JPEG, and smoothing of the boxes.
_PACKAGES = ("av", "decord", "numpy", "opencv-python-headless", "scipy")
_FFMPEG = ("libavcodec", "libavformat", "libswresample", "libswscale")

QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Something measured of every sample.

    Args:
        title: What it is, with its unit.
        edges: Of the bins, ascending; values beyond them count in the outermost.
        words: A smaller and a larger value, in words.
        missing: Why a sample may have no value.
        logarithmic: Whether the bins, and so the axis, are.
    """

    title: str
    unit: str
    edges: np.ndarray
    values: Callable[[pandas.DataFrame], pandas.Series[Any]]
    words: tuple[str, str]
    missing: str = ""
    logarithmic: bool = False


def _doubling(first: float, octaves: int, per_octave: int) -> np.ndarray:
    return np.asarray(first * 2.0 ** (np.arange(octaves * per_octave + 1) / per_octave))


# A change of bins makes old receipts incomparable: raise RECEIPT_VERSION with it.
QUANTITIES: dict[str, Quantity] = {
    "seconds": Quantity(
        title="duration, seconds",
        unit="s",
        edges=_doubling(0.125, 17, 4),  # to 16384 s
        values=lambda table: table["seconds"],
        words=("shorter", "longer"),
        logarithmic=True,
    ),
    "face_pixels": Quantity(
        title="face size, pixels of the source",
        unit="px",
        edges=_doubling(8, 9, 6),  # to 4096 pixels
        values=lambda table: table["face_pixels"],
        words=("smaller", "larger"),
        missing="no detector",
        logarithmic=True,
    ),
    "face_coverage": Quantity(
        title="face coverage, share of frames",
        unit="",
        edges=np.linspace(0, 1, 51),
        values=lambda table: table["face_coverage"].where(table["mjpg_length"] > 0),
        words=("lower", "higher"),
        missing="no picture",
    ),
    "loudness_db": Quantity(
        title="loudness, dBFS",
        unit="dB",
        edges=np.arange(-100.0, 1.0),
        values=lambda table: table["loudness_db"],
        words=("quieter", "louder"),
        missing="absent or silent",
    ),
    "image_bytes": Quantity(
        title="size of an image, bytes",
        unit="B",
        edges=_doubling(256, 12, 6),  # to 1 MiB
        values=lambda table: (table["mjpg_length"] / table["num_frames"]).replace(0, np.nan),
        words=("smaller", "larger"),
        missing="no picture",
        logarithmic=True,
    ),
}


@dataclass(kw_only=True)
class SampleFacts:
    """What the jsons say; the arrays have one row a sample, in the order of the index.

    Args:
        digests: Aspect → uint8 (N, 16).
        record_digests: uint8 (N, 16), of the whole json, which holds those of its members.
        sources: Paths of their recordings, as their jsons name them.
        found_by: How the boxes of frames were found → number of frames.
        detectors: ``detector/policy/align`` → number of samples.
        face_sizes: Side of the images, pixels → number of samples.
        padded_seconds: What was put there, of all together.
        pictures: What was done with stored pictures (``tone_mapped hlg``) → number of samples.
        sounds_taken: What was taken instead of a mix that loses the sound → number of samples.
        cut_off: Key of each sample of a recording that is cut off → what is said of that.
        num_damaged_sounds: Samples parts of whose sound could not be decoded.
        sync: Of samples whose mouth was held against the sound: ``ok``, ``apart`` (they do not go
            together) and ``shifted``, see ``hicmae.media.speaking.verdict`` → key → what is said.
    """

    digests: dict[str, np.ndarray]
    record_digests: np.ndarray
    keys: list[str]
    sources: list[str] = field(default_factory=list)
    found_by: Counter[str] = field(default_factory=Counter)
    detectors: Counter[str] = field(default_factory=Counter)
    face_sizes: Counter[int] = field(default_factory=Counter)
    num_padded: int = 0
    padded_seconds: float = 0.0
    pictures: Counter[str] = field(default_factory=Counter)
    sounds_taken: Counter[str] = field(default_factory=Counter)
    cut_off: dict[str, str] = field(default_factory=dict)
    num_damaged_sounds: int = 0
    sync: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def digest(self, *aspects: str) -> str:
        """SHA-256 over some aspects of all samples by key, however they lie in shards; hex."""
        digest = hashlib.sha256()
        for number in sorted(range(len(self.keys)), key=self.keys.__getitem__):
            digest.update(self.keys[number].encode() + b"\0")
            for aspect in aspects:
                digest.update(self.digests[aspect][number].tobytes())
        return digest.hexdigest()


def read_facts(index: Index) -> SampleFacts:
    """Read the json of every sample; each costs time, and a few hundred bytes of memory.

    Raises: ShardError: a shard is missing or cut off, or a json cannot be read; names the sample.
    """
    table = index.table
    shape = (len(table), _DIGEST_BYTES)
    facts = SampleFacts(
        digests={aspect: np.zeros(shape, dtype=np.uint8) for aspect in ASPECTS},
        record_digests=np.zeros(shape, dtype=np.uint8),
        keys=[str(key) for key in table["key"]],
    )
    for number, (data, info) in enumerate(sample_infos(index)):
        facts.record_digests[number] = _digest(data)
        for aspect, value in _aspects(info).items():
            facts.digests[aspect][number] = _digest(canonical_json(value))
        facts.sources.append(info.source.path)
        for word, count in info.faces.found_by:
            facts.found_by[word] += count
        if info.has_images:
            facts.detectors[f"{info.faces.detector}/{info.faces.policy}/{info.faces.align}"] += 1
            facts.face_sizes[info.face_size] += 1
        for name, how in info.picture.items():
            facts.pictures[name if how is True else f"{name} {how}"] += 1
        facts.num_padded += info.padded_samples > 0
        facts.padded_seconds += info.padded_samples / info.sample_rate
        facts.num_damaged_sounds += info.sound_damaged
        if info.sound_taken:
            facts.sounds_taken[info.sound_taken] += 1
        for source in (info.source, info.sound_source):
            if source is not None and source.cut_off:
                facts.cut_off[info.key] = source.cut_off
        if info.sync:
            found = Agreement(**info.sync)  # type: ignore[arg-type]
            said = f"evidence {found.evidence:.1f}, sound {found.lag_seconds:+.2f} s"
            facts.sync[verdict(found, info.seconds) or "ok"][info.key] = said
    return facts


def sample_infos(
    index: Index, numbers: Sequence[int] | None = None
) -> Iterator[tuple[bytes, SampleInfo]]:
    """The jsons of these rows of the index, in this order, or of all: bytes, what they say."""
    columns = ["key", "shard", "json_offset", "json_length"]
    table = index.table[columns]
    if numbers is not None:
        table = table.iloc[list(numbers)]
    files = ShardFiles(index.folder)
    for key, shard, offset, length in table.itertuples(index=False, name=None):
        where = f"{index.folder / shard}: sample {key!r}"
        data = files.read(shard, int(offset), int(length), where)
        yield data, parse_sample_json(data, where)


def library_versions() -> dict[str, str]:
    """Name → version of the packages, and of the FFmpeg libraries inside PyAV."""
    versions = {"hicmae": hicmae.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed under this name"
    for name in _FFMPEG:
        versions[name] = ".".join(map(str, av.library_versions[name]))
    return versions


def describe_values(name: str, table: pandas.DataFrame) -> dict[str, Any]:
    """Summarise one of ``QUANTITIES`` in the table of an index.

    Returns: ``num``, ``num_missing``, ``mean``, ``sd``, ``quantiles`` (name → value; the first
        three are absent or null where nothing is known) and ``bins``: [from, to, count] of those
        with any.
    """
    column = pandas.to_numeric(QUANTITIES[name].values(table))
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    known = values[np.isfinite(values)]
    edges = QUANTITIES[name].edges
    counts, _ = np.histogram(np.clip(known, edges[0], edges[-1]), bins=edges)
    return {
        "num": len(known),
        "num_missing": len(values) - len(known),
        "mean": _short(known.mean()) if len(known) else None,
        "sd": _short(known.std()) if len(known) else None,
        "quantiles": quantiles_of(known) if len(known) else {},
        "bins": [
            [_short(edges[place]), _short(edges[place + 1]), int(counts[place])]
            for place in np.flatnonzero(counts)
        ],
    }


def quantiles_of(values: np.ndarray) -> dict[str, float]:
    """``QUANTILES`` by their names, of values (N,)."""
    found = zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
    return {f"{share:g}": _short(value) for share, value in found}


def histogram_distance(first: Mapping[str, Any], second: Mapping[str, Any]) -> float | None:
    """Largest difference of two cumulative histograms: the Kolmogorov-Smirnov statistic seen
    through bins, which is at most the true one.

    Returns: 0..1; None if either has no values.
    """
    if not first["num"] or not second["num"]:
        return None
    counts: dict[float, list[int]] = {}
    for side, one in enumerate((first, second)):
        for start, _, count in one["bins"]:
            counts.setdefault(float(start), [0, 0])[side] += int(count)
    table = np.array([counts[start] for start in sorted(counts)], dtype=np.float64)
    shares = table.cumsum(axis=0) / table.sum(axis=0)
    return float(np.abs(shares[:, 0] - shares[:, 1]).max())


def exact_distance(
    name: str, first: pandas.DataFrame, second: pandas.DataFrame
) -> tuple[float, float] | None:
    """Kolmogorov-Smirnov statistic of a quantity and its p-value, from the tables of two indexes.

    Returns: None if either has no values.
    """
    sides = [
        pandas.to_numeric(QUANTITIES[name].values(table)).dropna().to_numpy(dtype=np.float64)
        for table in (first, second)
    ]
    if not len(sides[0]) or not len(sides[1]):
        return None
    from scipy.stats import ks_2samp  # a second of import that only a comparison waits for

    result = ks_2samp(*sides, method="asymp")
    return float(result.statistic), float(result.pvalue)


def shift_in_words(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """How the second differs from the first by its mean: ``12 % shorter``, ``3.1 dB louder``."""
    if not first["num"] and not second["num"]:
        return "neither known"
    if not first["num"] or not second["num"]:
        return f"known only in {'B' if not first['num'] else 'A'}"
    quantity = QUANTITIES[name]
    before, after = float(first["mean"]), float(second["mean"])
    word = quantity.words[int(after > before)]
    if quantity.logarithmic:  # positive, and ratios are what matters
        change = abs(after / before - 1)
        return "same mean" if change < 0.0005 else f"{change:.1%} {word}"
    change = abs(after - before)
    if name == "face_coverage":
        return "same mean" if change < 0.0005 else f"{100 * change:.1f} points {word}"
    return "same mean" if change < 0.05 else f"{change:.1f} {quantity.unit} {word}"


def _aspects(info: SampleInfo) -> dict[str, Any]:
    return {
        "picture": info.digests.mjpg,
        "sound": [info.digests.wav, info.sound, info.padded_samples],
        "time": [
            info.fps,
            info.num_frames,
            info.num_samples,
            info.sample_rate,
            round(info.start_seconds, 6),
            round(info.end_seconds, 6),
        ],
        "labels": [info.split, info.speaker, info.labels],
        "faces": dataclasses.asdict(info.faces),
        "source": [
            info.source.sha256,
            None if info.sound_source is None else info.sound_source.sha256,
        ],
    }


def canonical_json(value: Any) -> bytes:
    """The same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(data: bytes) -> np.ndarray:
    """uint8 (16,)."""
    return np.frombuffer(hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest(), dtype=np.uint8)


def _short(value: float | np.floating[Any]) -> float:
    """Six digits are more than two preparations agree in, and can be read."""
    return float(f"{float(value):.6g}")
