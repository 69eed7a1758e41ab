"""The run folder: whose it is, what may be resumed, and what has changed since.

For: refusing to mix two runs, and finding the newest checkpoint that is whole. Not for: writing
checkpoints (``pretrain/checkpoint_files.py``).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hicmae.config import load_yaml
from pretrain.digests import damage, read_note

# What a run leaves in its folder; anything else there is not ours to delete.
_PARTS = ("config.yaml", "metrics.csv", "checkpoints", "figures", "wandb")
_STEP_FILE = re.compile(r"step-(\d+)\.ckpt")
# Settings without which the checkpoint's weights do not fit the network.
_FIXED = ("model.", "objective.skip_connections")


def prepare_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Make the run folder ready.

    Raises: ValueError: it is a file, or it holds a run that is neither resumed nor overwritten.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; give a folder for the run with --out")
    there = [name for name in _PARTS if (out / name).exists()]
    if there and not (resume or overwrite):
        raise ValueError(
            f"{out}: holds a run already ({', '.join(there)}); pass --resume to go on with it, "
            "--overwrite to delete it, or another --out"
        )
    if overwrite and not resume:
        for name in there:
            part = out / name
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        for report in out.glob("nonfinite-step-*.json"):
            report.unlink()
    (out / "checkpoints").mkdir(parents=True, exist_ok=True)


def step_files(folder: Path) -> list[Path]:
    """The resumable checkpoints of a ``checkpoints/`` folder, oldest first."""
    found = [path for path in folder.glob("step-*.ckpt") if _STEP_FILE.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step in the name of a resumable checkpoint."""
    match = _STEP_FILE.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def note_of(path: Path) -> Path:
    """The file with lengths and digests beside a checkpoint."""
    return path.with_suffix(".json")


def shards_of(path: Path) -> Path:
    """The folder of DeepSpeed's shards beside a checkpoint; not every one has it."""
    return path.with_suffix(".shards")


def newest_checkpoint(out: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole: what ``--resume`` goes on from.

    Returns: its path, or None where the run has not saved any; and a line for each newer one that
        is damaged.
    Raises: ValueError: all of them are.
    """
    lines: list[str] = []
    for path in reversed(step_files(out / "checkpoints")):
        try:
            problem = damage(path.parent, read_note(note_of(path))["files"])
        except ValueError as error:
            problem = str(error)
        if not problem:
            return path, lines
        lines.append(f"{path}: damaged ({problem}); not used")
    if lines:
        raise ValueError(
            f"{lines[0].removesuffix('; not used')}, and so is every older one; begin again with "
            "--overwrite, or give another --out"
        )
    return None, []


def clear_leftovers(out: Path, *, newest: Path | None) -> None:
    """Remove what a killed process left half-written, and set damaged checkpoints aside.

    Args:
        out: The run folder.
        newest: The checkpoint that is gone on from; newer ones are damaged.
    """
    folder = out / "checkpoints"
    for path in step_files(folder):
        if newest is not None and step_of(path) > step_of(newest):
            path.replace(path.with_name(f"{path.name}.damaged"))
    for path in folder.glob(".*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    whole = {path.stem for path in step_files(folder)}
    for path in folder.glob("step-*"):
        if path.suffix in (".json", ".shards") and path.stem not in whole:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def compare_settings(out: Path, config: Mapping[str, Any]) -> list[str]:
    """Compare what a run is resumed with to what it was started with.

    Returns: one line for each setting that differs; the new ones count from now on.
    Raises: ValueError: the network is another one.
    """
    path = out / "config.yaml"
    before = dict(_leaves(load_yaml(path), ""))
    now = dict(_leaves(config, ""))
    changed = [
        name
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name) and name != "out"
    ]
    wrong = [name for name in changed if name.startswith(_FIXED)]
    if wrong:
        what = "; ".join(f"{name} was {before.get(name)}, now {now.get(name)}" for name in wrong)
        raise ValueError(
            f"{path}: the run to resume has another network ({what}); resume with the same "
            "model, or give another --out"
        )
    return [f"resumed with {name} = {now.get(name)}, was {before.get(name)}" for name in changed]


def _leaves(tree: Mapping[str, Any], at: str) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested mapping."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value
