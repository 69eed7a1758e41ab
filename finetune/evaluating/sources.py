"""The networks that are to be tested, and what is known of how they came about.

For: a finished run, or a fine-tuned checkpoint alone, as one thing. Not for: what they are tested
on (``sides.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.benchmark import Benchmark
from finetune.facts import FoldFacts, RunFacts
from finetune.record import SCORES, fold_folder, read_run
from hicmae import __version__
from hicmae.checkpoint import Checkpoint, is_checkpoint, load_checkpoint
from hicmae.emotion import EmotionConfig
from hicmae.plain import from_dict


@dataclass(frozen=True, kw_only=True)
class Source:
    """Networks that were fine-tuned for one benchmark, one a fold.

    Args:
        path: What the user gave.
        benchmark: What they were trained for.
        facts: Of their training.
        folds: Of each network, in order.
        checkpoints: Folder of each network's weights, by fold.
        tested: Keys and speakers of each fold's test side, where the run says so; by fold.
    """

    path: Path
    benchmark: Benchmark
    facts: RunFacts
    folds: tuple[FoldFacts, ...]
    checkpoints: dict[str, Path]
    tested: dict[str, dict[str, str]]

    def checkpoint(self, fold: str) -> Checkpoint:
        """The weights of a fold's network."""
        return load_checkpoint(self.checkpoints[fold])


def read_source(path: Path, *, folds: str = "all") -> Source:
    """Read a run, a fold of a run, or a checkpoint.

    Args:
        path: A run folder, its ``fold-…`` folder, or a folder with ``model.safetensors``.
        folds: ``all``, or names of folds separated by commas.

    Raises: FileNotFoundError: no such folder. ValueError: nothing there that was fine-tuned; a
        fold that it does not have, or whose weights are gone.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such run or checkpoint folder")
    if (path / SCORES).is_file():
        return _chosen(_of_run(path), folds)
    for folder in (path, path / "checkpoints" / "last"):
        if is_checkpoint(folder):
            found = load_checkpoint(folder)
            run = _run_above(folder)
            fold = str((found.config.get("finetuning") or {}).get("fold", ""))
            if run is not None and fold:
                return _chosen(replace(_of_run(run), path=path), fold)
            return _chosen(_of_checkpoint(path, found), folds)
    raise ValueError(
        f"{path}: neither a finished fine-tuning run (no {SCORES}) nor a checkpoint (no"
        " model.safetensors with config.json)"
    )


def _of_run(path: Path) -> Source:
    """The networks of a run of ``hicmae finetune``."""
    run = read_run(path)
    if run.facts.evaluates:
        raise ValueError(
            f"{path}: is an evaluation and holds no weights; evaluate {run.facts.evaluates}, whose"
            " networks it tested"
        )
    tested: dict[str, dict[str, str]] = {}
    for item in run.predictions:
        tested.setdefault(item.fold, {})[item.key] = item.speaker
    return Source(
        path=path,
        benchmark=run.benchmark,
        facts=run.facts,
        folds=run.folds,
        checkpoints={fold.name: fold_folder(path, fold.name) for fold in run.folds},
        tested=tested,
    )


def _of_checkpoint(path: Path, checkpoint: Checkpoint) -> Source:
    """One network, known by its checkpoint alone; what that does not say stays unsaid."""
    config = checkpoint.config
    labels = checkpoint.labels()
    if checkpoint.kind != "emotion" or labels is None:
        raise ValueError(
            f"{path}: is a pretrained network, or does not say what its outputs stand for;"
            " give a fine-tuned run or checkpoint"
        )
    where = f"{checkpoint.path}: benchmark"
    if config.get("benchmark"):
        benchmark = from_dict(Benchmark, config["benchmark"], where)
    elif labels.task == "classification":
        benchmark = Benchmark(
            name="not stated", task="classification", label="label", classes=labels.names
        )
    else:
        benchmark = Benchmark(name="not stated", task="regression", targets=labels.names)
    said: dict[str, Any] = {**(config.get("finetuning") or {}), **(config.get("protocol") or {})}
    emotion = from_dict(EmotionConfig, config["emotion"], f"{checkpoint.path}: emotion")
    fold = str(said.get("fold", "checkpoint"))
    digest = str(said.get("configuration_digest") or checkpoint.weights_sha256 or "")
    facts = RunFacts(
        benchmark=benchmark.name,
        init=str(said.get("init", "not stated")),
        checkpoint=None,
        modalities=emotion.modalities,
        selection=str(said.get("selection", "not stated")),
        seed=int(said.get("seed", 0)),
        epochs=said.get("epochs"),
        batch_size=None,
        learning_rate=None,
        loss=None,
        num_segments=int(said.get("num_segments", 2)),
        num_parameters=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        precision="not stated",
        shards="",
        shards_digest=str((config.get("data") or {}).get("index_sha256", "")),
        configuration_digest=digest,
        git_commit=said.get("git_commit"),
        version=__version__,
        protocol=str(said.get("rules", "default")),
    )
    one = FoldFacts(
        name=fold,
        configuration_digest=digest,
        num_train=said.get("num_train"),
        num_test=int(said.get("num_test", 0)),
        num_train_speakers=said.get("num_train_speakers"),
        num_test_speakers=said.get("num_test_speakers"),
        seconds=0.0,
        train_loss=None,
        layer_weights={},
        num_validation=int(said.get("num_validation", 0)),
        epoch=said.get("epoch"),
    )
    return Source(
        path=path,
        benchmark=benchmark,
        facts=facts,
        folds=(one,),
        checkpoints={fold: checkpoint.path},
        tested={},
    )


def _chosen(source: Source, folds: str) -> Source:
    """The networks of some folds."""
    names = list(source.checkpoints)
    wanted = names if folds.strip() == "all" else [part.strip() for part in folds.split(",")]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(
            f"folds = {folds}: {source.path} has no network of fold {', '.join(unknown)}"
            f" (folds: {', '.join(names)}, or all)"
        )
    for name in wanted:
        if not any(
            is_checkpoint(folder)
            for folder in (
                source.checkpoints[name],
                source.checkpoints[name] / "checkpoints" / "last",
            )
        ):
            raise ValueError(
                f"{source.checkpoints[name]}: holds no weights (checkpoints/last is gone); train"
                " this fold again with `hicmae finetune … --resume`"
            )
    return replace(
        source,
        folds=tuple(fold for fold in source.folds if fold.name in wanted),
        checkpoints={name: source.checkpoints[name] for name in names if name in wanted},
    )


def _run_above(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint folder is part of: ``RUN/fold-1/checkpoints/last``."""
    parents = checkpoint.resolve().parents
    return parents[2] if len(parents) > 2 and (parents[2] / SCORES).is_file() else None
