"""Features of clips, of layers, fused, or as the head reads them: of shards and of recordings.

Recordings, which are in no shards, are prepared as the checkpoint's training data was. Features go
to Parquet or NPZ in constant memory; a file appears when it is whole.

Shape letters: B clips, N tokens, D width of the encoder.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import Subset

from finetune.predictions import equal_segments
from finetune.testing.machine import Machine, Running, distinct_items, loader_of
from hicmae.checkpoints.checkpoint import Checkpoint, load_encoder
from hicmae.checkpoints.networks import build_network, preparation_of
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.files import whole_file
from hicmae.prediction.messages import Window, WindowConfig
from hicmae.prediction.network import clip_batch
from hicmae.prediction.process import DecodingProcess, PredictionError, WindowStream, read_windows
from hicmae.views import test_views
from shards.index import TABLE_NAME, Index
from shards.reading.random_access import ShardDataset

What = Literal["pooled", "layers", "fused"]
Rows = tuple[dict[str, list[Any]], dict[str, np.ndarray]]
# What a row is of: the file, whose face (or the sound), and when.
RECORDING_COLUMNS = pyarrow.schema(
    [
        ("key", pyarrow.string()),
        ("track", pyarrow.string()),
        ("start_seconds", pyarrow.float64()),
        ("end_seconds", pyarrow.float64()),
    ]
)
# Rows of a row group: a reader's smallest unit, 2 MiB of a 512-wide feature.
ROW_GROUP = 1024
METADATA = "hicmae"


class Extractor:
    """Gives named features of clips.

    Args:
        what: ``pooled``: what the head reads, or would (all layers weighted alike) of a pretrained
            network: (B, 4·D), or (B, 2·D) of a network of one modality. ``layers``: the mean token
            of each encoder layer, (B, D) each, after the encoder's final norm as in training.
            ``fused``: the mean token after fusion, (B, D) each.
        layers: ``all``, or numbers of encoder layers from 1 separated by commas.
        modalities: What the network is given; none: all that it reads.

    Attributes:
        reads: What it can be given.
        widths: Name of each feature and its width.

    Raises: ValueError: a layer or a modality that the network does not have; layers of something
        else than ``layers``.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        what: What,
        layers: str,
        modalities: str | None,
        machine: Machine,
    ) -> None:
        self.network: EmotionModel = feature_network(checkpoint)
        self.reads = reads = self.network.emotion.modalities
        self.modalities = modalities or reads
        if not set(self.modalities.split("-")) <= set(reads.split("-")):
            raise ValueError(f"modalities = {modalities}: {checkpoint.path} reads {reads} alone")
        self.what = what
        self.input = self.network.config.input
        depth, width = self.network.config.encoder_depth, self.network.config.encoder_dim
        if what != "layers" and layers != "all":
            raise ValueError(f"layers = {layers} is for --what layers (this is {what})")
        self.layers = tuple(range(1, depth + 1)) if layers == "all" else _layers(layers, depth)
        present = [name for name in ("video", "audio") if name in self.modalities.split("-")]
        if what == "pooled":
            self.widths = {"pooled": self.network.head.in_features}
        elif what == "fused":
            self.widths = {f"{name}_fused": width for name in present}
        else:
            self.widths = {
                f"{name}_layer_{layer}": width for name in present for layer in self.layers
            }
            self.network.encoder.layers = self.layers
        self.running = Running(self.network, self.input, self.modalities, machine)

    @torch.no_grad()
    def __call__(self, video: Tensor | None, fbank: Tensor | None) -> dict[str, np.ndarray]:
        """Features of a batch of clips, float32 (B, width) by name.

        Args:
            video: (B, 3, T, H, W) on the device, or None.
            fbank: (B, S, F) on the device, or None.
        """
        with self.running.autocast():
            if self.what == "pooled":
                found = {"pooled": self.network.features(video, fbank)}
            else:
                found = self._means(video, fbank)
        return {name: values.float().cpu().numpy() for name, values in found.items()}

    def _means(self, video: Tensor | None, fbank: Tensor | None) -> dict[str, Tensor]:
        """Mean tokens of layers or of the fusion, (B, D) each."""
        encoded = self.network.encoder(video, fbank)
        found = {}
        for name, tokens in (("video", encoded.video), ("audio", encoded.audio)):
            if tokens is None:
                continue
            if self.what == "fused":
                found[f"{name}_fused"] = tokens.fused.mean(dim=1)
            else:
                for layer, of_layer in zip(self.layers, tokens.layers, strict=True):
                    found[f"{name}_layer_{layer}"] = of_layer.mean(dim=1)
        return found


def feature_network(checkpoint: Checkpoint) -> EmotionModel:
    """A network whose ``features`` are those of a checkpoint.

    A pretrained one has no head; its features are those that the head would read at its first
    step: all layers weighted alike, of the modalities that it was trained on.
    """
    if checkpoint.kind == "emotion":
        network = build_network(checkpoint)
        assert isinstance(network, EmotionModel)
        return network
    reads = checkpoint.config.get("modalities", "audio-video")  # of others it learned nothing
    emotion = EmotionConfig(num_outputs=1, modalities=reads)
    network = EmotionModel(checkpoint.model_config(), emotion)
    load_encoder(network.encoder, checkpoint)
    return network.eval()


def shard_rows(extractor: Extractor, index: Index, *, per: str, segments: int) -> Iterator[Rows]:
    """Columns and features of some rows at a time, in the order of the index.

    Views of a sample that are the same clip are one, in a mean too.
    """
    dataset = ShardDataset(
        index,
        input=extractor.input,
        views=segments,
        modalities=extractor.modalities,
    )
    equal = equal_segments(index.table, extractor.input, segments)
    clips = Subset(dataset, distinct_items(equal))
    loader = loader_of(extractor.running.machine, clips)
    found = (
        (batch["sample"].tolist(), batch["view"].tolist(), extractor(video, fbank))
        for batch, video, fbank in extractor.running.batches(loader, "features")
    )
    if per == "view":
        for samples, views, features in found:
            yield _about_views(extractor, index, samples, views, segments), features
        return
    each = (
        (sample, {name: values[place] for name, values in features.items()})
        for samples, _, features in found
        for place, sample in enumerate(samples)
    )
    of_samples = (
        (sample, [row for _, row in own]) for sample, own in itertools.groupby(each, itemgetter(0))
    )
    while some := list(itertools.islice(of_samples, loader.batch_size)):
        mean = {
            name: np.stack(
                [np.mean([row[name] for row in own], axis=0, dtype=np.float64) for _, own in some]
            ).astype(np.float32)
            for name in extractor.widths
        }
        yield _about(index, [sample for sample, _ in some]), mean


def shard_columns(index: Index, *, per: str) -> pyarrow.Schema:
    """Types of these columns, as the index has them."""
    stored = pyarrow.parquet.read_schema(index.folder / TABLE_NAME)
    fields = [pyarrow.field(name, stored.field(name).type) for name in _columns(index)]
    if per == "view":
        fields.append(pyarrow.field("view", pyarrow.int64()))
        fields.append(pyarrow.field("start_seconds", pyarrow.float64()))
    return pyarrow.schema(fields)


def recording_rows(
    extractor: Extractor,
    checkpoint: Checkpoint,
    files: Sequence[Path],
    *,
    per: str,
    hop: float | None,
    console: Console,
    refused: dict[str, str],
) -> Iterator[Rows]:
    """Features of recordings: a row a window, or a row a face.

    Args:
        checkpoint: Which says how its images were made.
        per: ``view``: a row a window; ``sample``: the mean over the windows of a face.
        hop: Seconds from one window to the next; none given: one clip, so that none overlap.
        console: Where it is said how images are made, if the checkpoint does not.
        refused: Filled with the recordings that could not be read, and why.
    """
    preparation, note = preparation_of(checkpoint)
    if note and extractor.modalities != "audio":
        console.print(note)
    config = WindowConfig(hop=extractor.input.clip_seconds if hop is None else hop)
    with closing(DecodingProcess()) as process:
        for path in files:
            try:
                with read_windows(
                    path,
                    input=extractor.input,
                    preparation=preparation,
                    config=config,
                    modalities=extractor.modalities,
                    process=process,
                ) as stream:
                    _require_modalities(stream, extractor)
                    rows = list(_windows(extractor, stream))
            except (PredictionError, FileNotFoundError) as error:
                refused[str(path)] = str(error)
                continue
            tracks = dict.fromkeys(window.track for window, _ in rows)
            by_track = [[row for row in rows if row[0].track == track] for track in tracks]
            groups = [[row] for row in rows] if per == "view" else by_track
            yield from (_mean_row(path, own) for own in groups)


class ParquetFeatures:
    """One column a feature (a list of fixed size), beside the columns that say of what it is.

    Args:
        about: Types of the other columns.
        widths: Width of each feature.
        metadata: What goes into the schema's metadata, as JSON under ``hicmae``.
    """

    def __init__(
        self,
        path: Path,
        about: pyarrow.Schema,
        widths: Mapping[str, int],
        metadata: Mapping[str, Any],
    ) -> None:
        fields = [
            pyarrow.field(name, pyarrow.list_(pyarrow.float32(), width))
            for name, width in widths.items()
        ]
        self._schema = pyarrow.schema([*about, *fields]).with_metadata(
            {METADATA: json.dumps(metadata, ensure_ascii=False)}
        )
        self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._about = about
        self._kept: list[pyarrow.Table] = []
        self._num_kept = 0

    def add(self, about: Mapping[str, list[Any]], features: Mapping[str, np.ndarray]) -> None:
        """Add rows: their columns and their features (rows, width) float32."""
        columns = [
            pyarrow.array(about[field.name], type=field.type, from_pandas=True)
            for field in self._about
        ]
        for name, values in features.items():
            kind = self._schema.field(name).type
            flat = pyarrow.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
            columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=kind))
        table = pyarrow.Table.from_arrays(columns, schema=self._schema)
        self._kept.append(table)
        self._num_kept += table.num_rows
        if self._num_kept >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._kept:
            self._writer.write_table(pyarrow.concat_tables(self._kept), row_group_size=ROW_GROUP)
        self._kept, self._num_kept = [], 0


class NpzFeatures:
    """One array a feature (rows, width), and one array a column that says of what it is.

    Features go to files without a name until their number is known; the other columns, which are
    short, stay in memory.

    Args: as ``ParquetFeatures``; the metadata is the array ``hicmae``, JSON in a string.
    """

    def __init__(
        self,
        path: Path,
        about: pyarrow.Schema,
        widths: Mapping[str, int],
        metadata: Mapping[str, Any],
    ) -> None:
        self._path, self._metadata, self._widths = path, metadata, widths
        self._about: dict[str, list[Any]] = {field.name: [] for field in about}
        self._types = {field.name: field.type for field in about}
        self._parts = {name: tempfile.TemporaryFile(dir=path.parent) for name in widths}  # noqa: SIM115
        self._num_rows = 0

    def add(self, about: Mapping[str, list[Any]], features: Mapping[str, np.ndarray]) -> None:
        """Add rows, as ``ParquetFeatures.add``."""
        for name, values in about.items():
            self._about[name] += values
        for name, block in features.items():
            self._parts[name].write(np.ascontiguousarray(block, dtype="<f4").tobytes())
        self._num_rows += len(next(iter(features.values())))

    def close(self) -> None:
        """Put the parts into one file."""
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, part in self._parts.items():
                header = {
                    "descr": "<f4",
                    "fortran_order": False,
                    "shape": (self._num_rows, self._widths[name]),
                }
                part.seek(0)
                with part, archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array_header_2_0(file, header)
                    shutil.copyfileobj(part, file, 1 << 20)
            for name, values in self._about.items():
                self._array(archive, name, _plain_array(values, self._types[name]))
            self._array(archive, METADATA, np.array(json.dumps(self._metadata, ensure_ascii=False)))

    @staticmethod
    def _array(archive: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, values, allow_pickle=False)


@contextlib.contextmanager
def feature_file(
    out: Path, about: pyarrow.Schema, widths: Mapping[str, int], metadata: Mapping[str, Any]
) -> Iterator[ParquetFeatures | NpzFeatures]:
    """Write a file beside its place; it gets its name when everything in it is written.

    Args: out: Ends in ``.parquet`` or ``.npz``; all else as of ``ParquetFeatures``.
    Raises: ValueError: another ending.
    """
    check_ending(out)
    kind = ParquetFeatures if out.suffix == ".parquet" else NpzFeatures
    with whole_file(out) as beside:
        file = kind(beside, about, widths, metadata)
        yield file
        file.close()


def check_ending(out: Path) -> None:
    """Refuse a file that is neither Parquet nor NPZ.

    Raises: ValueError: it is not.
    """
    if out.suffix not in (".parquet", ".npz"):
        raise ValueError(f"{out}: the file must end in .parquet or .npz")


def _layers(text: str, depth: int) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    numbers = [int(word) for word in words if word.isdecimal()]
    if (
        len(numbers) < len(words)
        or len(set(numbers)) < len(numbers)
        or not all(1 <= number <= depth for number in numbers)
    ):
        raise ValueError(f"layers = {text} (all, or numbers from 1 to {depth}, each once)")
    return tuple(sorted(numbers))


def _about(index: Index, samples: list[int]) -> dict[str, list[Any]]:
    rows = index.table.iloc[samples]
    return {name: rows[name].tolist() for name in _columns(index)}


def _about_views(
    extractor: Extractor, index: Index, samples: list[int], views: list[int], segments: int
) -> dict[str, list[Any]]:
    clip = extractor.input
    starts = []
    for frames, view in zip(index.table["num_frames"].iloc[samples], views, strict=True):
        places = test_views(int(frames), clip.num_frames, clip.frame_stride, segments)
        starts.append(float(places[view][0]) / clip.fps)
    return _about(index, samples) | {"view": views, "start_seconds": starts}


def _columns(index: Index) -> list[str]:
    return list(dict.fromkeys(["key", "speaker", "split", *index.label_columns]))


def _require_modalities(stream: WindowStream, extractor: Extractor) -> None:
    """Refuse a recording that lacks what is asked for: its row would have other features."""
    wanted, found = extractor.modalities.split("-"), stream.found
    both = extractor.reads == "audio-video"
    if "audio" in wanted and not found.has_sound:
        remedy = "; pass --modalities video for the picture alone" if both else ""
        raise PredictionError("no-sound", f"has no sound{remedy}")
    if "video" in wanted and not all(track.is_face for track in found.tracks):
        remedy = "; pass --modalities audio for the sound" if both else ""
        raise PredictionError("no-face", f"no face was found{remedy}")


def _windows(
    extractor: Extractor, stream: WindowStream
) -> Iterator[tuple[Window, dict[str, np.ndarray]]]:
    """Windows, of one clip each, with features (1, width) by name."""
    windows, running = iter(stream), extractor.running
    while waiting := list(itertools.islice(windows, running.machine.batch_size)):
        batch = clip_batch([window.clips[0] for window in waiting], running.machine.device)
        found = extractor(*running.inputs(batch))
        for place, window in enumerate(waiting):
            yield window, {name: values[place : place + 1] for name, values in found.items()}


def _mean_row(path: Path, rows: Sequence[tuple[Window, dict[str, np.ndarray]]]) -> Rows:
    """One row: the mean over some windows of a face."""
    windows = [window for window, _ in rows]
    about: dict[str, list[Any]] = {
        "key": [str(path)],
        "track": [windows[0].track],
        "start_seconds": [min(window.start_seconds for window in windows)],
        "end_seconds": [max(window.end_seconds for window in windows)],
    }
    mean = {name: np.mean([features[name] for _, features in rows], axis=0) for name in rows[0][1]}
    return about, mean


def _plain_array(values: list[Any], kind: pyarrow.DataType) -> np.ndarray:
    """A column as an array without Python objects: a missing text is empty, a number is nan."""
    has_gaps = any(value is None or value != value for value in values)
    if pyarrow.types.is_integer(kind) and not has_gaps:
        return np.array(values, dtype=np.int64)
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if pyarrow.types.is_boolean(kind) and not has_gaps:
        return np.array(values, dtype=bool)
    return np.array(["" if value is None or value != value else str(value) for value in values])
