"""Features of shards for other people's classifiers.

For: ``hicmae embed``. Not for: what the features are (``extracting.py``) or how a file is written
(``feature_files.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow

from finetune.data import check_sound
from finetune.evaluating.extracting import Extractor, What
from finetune.evaluating.feature_files import check_ending, feature_file
from finetune.evaluating.machine import MachineConfig
from finetune.provenance import file_digest, git_commit
from finetune.record import SCORES
from finetune.reporting.tables import output_console
from hicmae import __version__
from hicmae.checkpoint import WEIGHTS, Checkpoint, file_sha256, load_checkpoint
from hicmae.plain import to_dict
from hicmae.views import test_views
from shards.index import TABLE_NAME, Index, read_index
from shards.random_access import ShardDataset

Rows = tuple[dict[str, list[Any]], dict[str, np.ndarray]]
_MACHINE = MachineConfig()


def embed(
    *,
    source: Path,
    shards: Path,
    out: Path,
    what: What = "pooled",
    layers: str = "all",
    modalities: Literal["audio-video", "video", "audio"] | None = None,
    per: Literal["sample", "view"] = "sample",
    segments: int = 1,
    machine: MachineConfig = _MACHINE,
    overwrite: bool = False,
) -> None:
    """Write features of every sample of a folder of shards to one Parquet or NPZ file.

    A row has the sample's key, speaker and labels beside its features; where they come from
    (digest of the weights, configuration, settings) stands in the file's metadata.

    Args:
        source: A pretraining run, one fold of a fine-tuning run (RUN/fold-1), or a checkpoint.
        shards: Folder of shards with an index.
        out: The file, .parquet or .npz.
        what: pooled: one vector, as the head reads it (of a pretrained network: as it would at its
            first step). layers: the mean token of each encoder layer and modality. fused: the mean
            token of each modality after fusion.
        layers: Of layers: all, or their numbers from 1, separated by commas.
        modalities: What the network is given: audio-video, video or audio; null: all that it
            reads.
        per: sample: one row a sample, the mean over its views; view: one row a view.
        segments: Views of a sample, spread over its length; a clip shorter than the view is held.
        machine: On what it runs.
        overwrite: Replace the file that is there.

    Raises:
        ValueError: No checkpoint; a layer or modality that it does not have; samples without
            sound; a file that is there.
        FileNotFoundError: No such shards.
    """
    check_ending(out)
    if out.exists() and not overwrite:
        raise ValueError(f"{out}: exists; pass --overwrite, or name another file")
    if segments < 1:
        raise ValueError(f"segments = {segments} (must be 1 or more)")
    if (source / SCORES).is_file():
        folds = ", ".join(sorted(path.name for path in source.glob("fold-*")))
        raise ValueError(f"{source}: has a network for each fold; name one of them ({folds})")
    checkpoint, index = load_checkpoint(source), read_index(shards)
    extractor = Extractor(
        checkpoint, what=what, layers=layers, modalities=modalities, machine=machine
    )
    check_sound(index.table, modalities=extractor.modalities)
    settings = {"what": what, "modalities": extractor.modalities, "per": per, "segments": segments}
    if what == "layers":
        settings["layers"] = list(extractor.layers)
    settings["precision"] = machine.resolved_precision
    metadata = _metadata(checkpoint, index) | {"settings": settings}
    console = output_console()
    console.print(
        f"{checkpoint.path}: {what} features ({', '.join(extractor.widths)}) of"
        f" {len(index.table)} samples x {segments} views, {extractor.modalities},"
        f" {machine.resolved_precision}, {machine.device()}"
    )
    num_rows = 0
    with feature_file(out, _schema(index, per=per), extractor.widths, metadata) as file:
        for about, features in _rows(extractor, index, per=per, segments=segments, machine=machine):
            file.add(about, features)
            num_rows += len(about["key"])
    widths = ", ".join(f"{name} {width}" for name, width in extractor.widths.items())
    console.print(f"{out}: {num_rows} rows ({widths})")


def _rows(
    extractor: Extractor, index: Index, *, per: str, segments: int, machine: MachineConfig
) -> Iterator[Rows]:
    """Columns and features of some rows at a time, in the order of the index."""
    dataset = ShardDataset(
        index,
        input=extractor.input,
        views=segments,
        require_sound="audio" in extractor.modalities.split("-"),
    )
    waiting: dict[str, list[np.ndarray]] = {name: [] for name in extractor.widths}
    loader = machine.loader(dataset)
    for batch, video, fbank in extractor.running.batches(loader, "features"):
        features = extractor(video, fbank)
        samples, views = batch["sample"].tolist(), batch["view"].tolist()
        if per == "view":
            yield _about_views(extractor, index, samples, views, segments), features
            continue
        for name, values in features.items():
            waiting[name] += list(values)
        whole = len(waiting[next(iter(waiting))]) // segments
        if whole:
            last = samples[-1] + 1 if views[-1] == segments - 1 else samples[-1]
            mean = {
                name: np.stack(values[: whole * segments])
                .reshape(whole, segments, -1)
                .mean(axis=1, dtype=np.float64)
                .astype(np.float32)
                for name, values in waiting.items()
            }
            waiting = {name: values[whole * segments :] for name, values in waiting.items()}
            yield _about(index, list(range(last - whole, last))), mean


def _about(index: Index, samples: list[int]) -> dict[str, list[Any]]:
    """Key, speaker and labels of samples."""
    rows = index.table.iloc[samples]
    return {name: rows[name].tolist() for name in _columns(index)}


def _about_views(
    extractor: Extractor, index: Index, samples: list[int], views: list[int], segments: int
) -> dict[str, list[Any]]:
    """The same of views, with their number and time."""
    clip = extractor.input
    starts = []
    for frames, view in zip(index.table["num_frames"].iloc[samples], views, strict=True):
        places = test_views(int(frames), clip.num_frames, clip.frame_stride, segments)
        starts.append(float(places[view][0]) / clip.fps)
    return _about(index, samples) | {"view": views, "start_seconds": starts}


def _columns(index: Index) -> list[str]:
    """Columns that say of what a row is."""
    return list(dict.fromkeys(["key", "speaker", "split", *index.label_columns]))


def _schema(index: Index, *, per: str) -> pyarrow.Schema:
    """Types of these columns, as the index has them."""
    stored = pyarrow.parquet.read_schema(index.folder / TABLE_NAME)
    fields = [pyarrow.field(name, stored.field(name).type) for name in _columns(index)]
    if per == "view":
        fields.append(pyarrow.field("view", pyarrow.int64()))
        fields.append(pyarrow.field("start_seconds", pyarrow.float64()))
    return pyarrow.schema(fields)


def _metadata(checkpoint: Checkpoint, index: Index) -> Mapping[str, Any]:
    """Where features come from."""
    weights = checkpoint.path / WEIGHTS
    return {
        "checkpoint": str(checkpoint.path),
        "weights_sha256": checkpoint.weights_sha256 or file_sha256(weights),
        "kind": checkpoint.kind,
        "config": to_dict(checkpoint.config),
        "shards": str(index.folder),
        "index_sha256": file_digest(index.folder / TABLE_NAME),
        "git_commit": git_commit(),
        "version": __version__,
    }
