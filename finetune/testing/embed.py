"""``hicmae embed``: features of shards, or of recordings, for other people's classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hicmae.checkpoints.checkpoint import Checkpoint
    from shards.index import Index


def embed(
    *,
    source: Path,
    inputs: list[Path],
    out: Path,
    what: Literal["pooled", "layers", "fused"] = "pooled",
    layers: str = "all",
    modalities: Literal["audio-video", "video", "audio"] | None = None,
    per: Literal["sample", "view"] = "sample",
    segments: int = 1,
    hop: float | None = None,
    device: str = "auto",
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto",
    batch_size: int = 16,
    workers: int = 2,
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
        device: Where the network runs: auto (a GPU where there is one), cpu, cuda or cuda:0.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        batch_size: Clips handled at once.
        workers: Reading processes; 0 reads in this process.
        overwrite: Replace the file that is there.

    Raises:
        ValueError: No checkpoint; a layer or modality that it does not have; samples without
            sound; a file that is there; not one recording that can be read.
        FileNotFoundError: No such input.
    """
    from finetune.data import check_modalities
    from finetune.record import SCORES
    from finetune.reporting.document import output_console
    from finetune.testing.extracting import (
        RECORDING_COLUMNS,
        Extractor,
        recording_rows,
        shard_columns,
        shard_rows,
    )
    from finetune.testing.feature_files import check_ending, feature_file
    from finetune.testing.machine import make_machine, require_alone
    from hicmae.checkpoints.checkpoint import load_checkpoint

    machine = make_machine(device, precision, batch_size=batch_size, workers=workers)
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
    settings["precision"] = machine.precision
    metadata = {**_metadata(checkpoint, shards, inputs), "settings": settings}
    console = output_console()
    refused: dict[str, str] = {}
    if shards is not None:
        check_modalities(shards.table, modalities=extractor.modalities, whole=True)
        schema = shard_columns(shards, per=per)
        rows = shard_rows(extractor, shards, per=per, segments=segments)
    else:
        schema = RECORDING_COLUMNS
        rows = recording_rows(
            extractor,
            checkpoint,
            inputs,
            per=per,
            hop=hop,
            console=console,
            refused=refused,
        )
    console.print(
        f"{checkpoint.path}: {what} features ({', '.join(extractor.widths)}) of"
        f" {', '.join(map(str, inputs[:3]))}{', …' if len(inputs) > 3 else ''};"
        f" {extractor.modalities}, {machine.precision}, {machine.device}"
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
    from shards.index import TABLE_NAME, read_index

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


def _metadata(checkpoint: Checkpoint, shards: Index | None, inputs: list[Path]) -> dict[str, Any]:
    from finetune.record import git_commit
    from hicmae import __version__
    from hicmae.checkpoints.checkpoint import WEIGHTS
    from hicmae.config import to_dict
    from hicmae.files import file_sha256
    from shards.index import TABLE_NAME

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
        found["index_sha256"] = file_sha256(shards.folder / TABLE_NAME)
    return found
