"""Features of shards and recordings for other people's classifiers.

For: ``hicmae embed``. Not for: what the features are (``extracting.py``), reading recordings
(``recordings.py``) or how a file is written (``feature_files.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow

from finetune.data import check_sound
from finetune.evaluating.extracting import Extractor
from finetune.evaluating.feature_files import check_ending, feature_file
from finetune.evaluating.machine import device_of, loader_of
from finetune.evaluating.ranks import require_alone
from finetune.evaluating.settings import MachineConfig, What
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
    inputs: list[Path],
    out: Path,
    what: What = "pooled",
    layers: str = "all",
    modalities: Literal["audio-video", "video", "audio"] | None = None,
    per: Literal["sample", "view"] = "sample",
    segments: int = 1,
    hop: float | None = None,
    machine: MachineConfig = _MACHINE,
    overwrite: bool = False,
) -> None:
    """Write features of shards, or of recordings, to one Parquet or NPZ file.

    A row has the sample's key, speaker and labels beside its features, or the recording's path and
    the face's name; where features come from (digest of the weights, configuration, settings)
    stands in the file's metadata. Recordings are prepared as the training data was.

    Args:
        source: A pretraining run, one fold of a fine-tuning run (RUN/fold-1), or a checkpoint.
        inputs: A folder of shards with an index; or videos and sound files.
        out: The file, .parquet or .npz.
        what: pooled: one vector, as the head reads it (of a pretrained network: as it would at its
            first step). layers: the mean token of each encoder layer and modality. fused: the mean
            token of each modality after fusion.
        layers: Of layers: all, or their numbers from 1, separated by commas.
        modalities: What the network is given: audio-video, video or audio; null: all that it
            reads.
        per: sample: one row a sample (or a face of a recording), the mean over its views; view:
            one row a view.
        segments: Of shards: views of a sample, spread over its length.
        hop: Of recordings: seconds from one view to the next; null: one view's length.
        machine: On what it runs.
        overwrite: Replace the file that is there.

    Raises:
        ValueError: No checkpoint; a layer or modality that it does not have; samples without
            sound; a file that is there; not one recording that can be read.
        FileNotFoundError: No such input.
    """
    require_alone("hicmae embed")
    check_ending(out)
    if out.exists() and not overwrite:
        raise ValueError(f"{out}: exists; pass --overwrite, or name another file")
    if segments < 1:
        raise ValueError(f"segments = {segments} (must be 1 or more)")
    if (source / SCORES).is_file():
        folds = ", ".join(sorted(path.name for path in source.glob("fold-*")))
        raise ValueError(f"{source}: has a network for each fold; name one of them ({folds})")
    shards = _shards(inputs, segments=segments, hop=hop)
    checkpoint = load_checkpoint(source)
    extractor = Extractor(
        checkpoint, what=what, layers=layers, modalities=modalities, machine=machine
    )
    settings: dict[str, Any] = {"what": what, "modalities": extractor.modalities, "per": per}
    settings |= {"segments": segments} if shards is not None else {"hop_seconds": hop}
    if what == "layers":
        settings["layers"] = list(extractor.layers)
    settings["precision"] = machine.resolved_precision
    metadata = {**_metadata(checkpoint, shards, inputs), "settings": settings}
    console = output_console()
    refused: dict[str, str] = {}
    if shards is not None:
        check_sound(shards.table, modalities=extractor.modalities)
        schema = _schema(shards, per=per)
        rows = _rows(extractor, shards, per=per, segments=segments, machine=machine)
    else:
        from finetune.evaluating.recordings import SCHEMA, recording_rows

        schema = SCHEMA
        rows = recording_rows(
            extractor,
            checkpoint,
            inputs,
            per=per,
            hop=hop,
            batch_size=machine.batch_size,
            console=console,
            refused=refused,
        )
    console.print(
        f"{checkpoint.path}: {what} features ({', '.join(extractor.widths)}) of"
        f" {', '.join(map(str, inputs[:3]))}{', …' if len(inputs) > 3 else ''};"
        f" {extractor.modalities}, {machine.resolved_precision}, {device_of(machine)}"
    )
    num_rows = 0
    with feature_file(out, schema, extractor.widths, metadata) as file:
        for about, features in rows:
            file.add(about, features)
            num_rows += len(about["key"])
        if not num_rows:
            raise ValueError(
                f"none of {len(inputs)} recordings can be embedded: {next(iter(refused.values()))}"
            )
    for path, why in refused.items():
        console.print(f"refused: {why if path in why else f'{path}: {why}'}")
    widths = ", ".join(f"{name} {width}" for name, width in extractor.widths.items())
    left_out = f"; {len(refused)} of {len(inputs)} recordings refused" if refused else ""
    console.print(f"{out}: {num_rows} rows ({widths}){left_out}")


def _shards(inputs: list[Path], *, segments: int, hop: float | None) -> Index | None:
    """The index of the shards that are given; none if recordings are.

    Raises: ValueError: several folders of shards, or shards and recordings; settings of the other.
    """
    folders = [path for path in inputs if (path / TABLE_NAME).is_file()]
    if folders and len(inputs) > 1:
        raise ValueError(
            f"inputs: give one folder of shards or recordings, not {folders[0]} with others"
            " (`hicmae shards merge` joins parts)"
        )
    if folders and hop is not None:
        raise ValueError("hop is for recordings; say with --segments how many views a sample has")
    if not folders and segments != 1:
        raise ValueError("segments is for shards; say with --hop how far apart views are")
    missing = [str(path) for path in inputs if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing[:5])}: no such file or folder")
    return read_index(folders[0]) if folders else None


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
    loader = loader_of(machine, dataset)
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


def _metadata(checkpoint: Checkpoint, shards: Index | None, inputs: list[Path]) -> dict[str, Any]:
    """Where features come from."""
    found = {
        "checkpoint": str(checkpoint.path),
        "weights_sha256": checkpoint.weights_sha256 or file_sha256(checkpoint.path / WEIGHTS),
        "kind": checkpoint.kind,
        "config": to_dict(checkpoint.config),
        "inputs": [str(path) for path in inputs],
        "git_commit": git_commit(),
        "version": __version__,
    }
    if shards is not None:
        found["index_sha256"] = file_digest(shards.folder / TABLE_NAME)
    return found
