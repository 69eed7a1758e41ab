"""The run folder: whose it is, what may be resumed, and what has changed since.

For: refusing to mix two runs, and finding the newest checkpoint. Not for: writing checkpoints
(``pretrain/callbacks.py``).
"""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hicmae.config import load_yaml

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


def newest_checkpoint(out: Path) -> Path | None:
    """The checkpoint that ``--resume`` goes on from; ``None``: the run has not saved any.

    Raises: ValueError: it is damaged.
    """
    files = step_files(out / "checkpoints")
    if not files:
        return None
    newest = files[-1]
    if newest.is_file() and not zipfile.is_zipfile(newest):
        older = f" to resume from {files[-2].name}" if len(files) > 1 else " and begin again"
        raise ValueError(f"{newest}: damaged ({newest.stat().st_size} bytes); delete it{older}")
    return newest


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
