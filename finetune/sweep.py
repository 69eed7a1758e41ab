"""One command, several runs: modalities and seeds, each in a folder of its own.

For: which runs a command makes and where, and whether what lies there may be finished or deleted.
Not for: making them (``finetune/run.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.folds import Fold
from finetune.record import CONFIG, fold_folder, read_fold
from finetune.settings import Modalities


@dataclass(frozen=True, kw_only=True)
class Member:
    """One run of a sweep.

    Args:
        folder: Of the run.
        modalities: What it sees and hears.
        seed: Of its draws.
    """

    folder: Path
    modalities: Modalities
    seed: int


def parse_seeds(text: str | None, seed: int) -> list[int]:
    """Read the seeds of a command, separated by commas; none given: the one seed.

    Raises: ValueError: no whole number from 0, or one given twice.
    """
    if text is None:
        return [seed]
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise ValueError(f"seeds = {text} (whole numbers from 0 separated by commas, each once)")
    return [int(word) for word in words]


def members(
    out: Path, modalities: Sequence[Modalities], seeds: Sequence[int], *, by_seed: bool
) -> list[Member]:
    """The runs of a command: ``OUT``, ``OUT/video``, ``OUT/seed-0`` or ``OUT/video/seed-0``.

    Args:
        out: Folder of the command.
        modalities: One or several.
        seeds: The same.
        by_seed: Whether seeds were asked for, so that even one has a folder of its own (others
            may be added later).

    Raises: ValueError: several runs are wanted and the folder holds one.
    """
    found = []
    for heard in modalities:
        above = out / heard if len(modalities) > 1 else out
        for seed in seeds:
            folder = above / f"seed-{seed}" if by_seed else above
            found.append(Member(folder=folder, modalities=heard, seed=seed))
    for folder in sorted({parent for one in found for parent in one.folder.parents}):
        if folder.is_relative_to(out) and (folder / CONFIG).is_file():
            raise ValueError(
                f"{folder}: holds a run; name another folder for runs of several modalities or"
                " seeds"
            )
    return found


def prepare_folder(
    out: Path, folds: Sequence[Fold], digest: str, *, resume: bool, overwrite: bool
) -> None:
    """Make the run folder, or make sure that what is in it belongs to this run.

    Raises: ValueError: a run is there and is neither to be finished nor deleted, or was made with
        another configuration.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite contradict each other; give one of them")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; name a folder for the run")
    if out.is_dir() and any(out.iterdir()):
        if overwrite and not (out / CONFIG).is_file():
            raise ValueError(f"{out}: is no run folder (no {CONFIG}), so it is not deleted")
        if overwrite:
            shutil.rmtree(out)
        elif not resume:
            raise ValueError(
                f"{out}: is not empty; finish the run there with --resume, delete it with"
                " --overwrite, or name another folder"
            )
    for fold in folds:
        found = read_fold(fold_folder(out, fold.name))
        if found is not None and found.configuration_digest != digest:
            raise ValueError(
                f"{fold_folder(out, fold.name)}: was trained with another configuration"
                f" ({found.configuration_digest[:12]}, this is {digest[:12]}; see {out / CONFIG});"
                " name another folder, or pass --overwrite"
            )
    out.mkdir(parents=True, exist_ok=True)
