"""Checkpoints of a run: when they are saved, how they are written, and where a run goes on.

In ``checkpoints/`` a step has ``step-000100.ckpt``, the whole state, from which any number of
devices goes on, and ``step-000100.json`` with its length and digest. It is written under a hidden
name while training goes on, read back, and renamed last: a checkpoint that has its name is whole.
Engines that share the state gather it to the first process, which holds 12 bytes a parameter more
while it is written.

However many processes go on, an optimizer step takes the clips and draws that it would have taken:
batches are numbered over all processes, and ``accumulate`` is changed against their number. What
differs then is the order of additions; and with ``negatives: global`` a clip is contrasted with
those of the processes that there are.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from hicmae.checkpoints.checkpoint import is_checkpoint, save_checkpoint
from hicmae.config import from_dict, leaves, load_yaml, to_dict
from hicmae.files import (
    DigestingFile,
    file_sha256,
    only_writer,
    remove,
    sync_to_disk,
    whole_file,
    write_json,
)
from hicmae.pretraining import HiCMAE
from hicmae.settings import ObjectiveConfig
from pretrain.module import Batch, PretrainModule, StepCallback
from pretrain.settings import PretrainConfig
from shards.index import INFO_NAME

# What a run leaves in its folder; anything else there is not ours to delete.
_RUN_PARTS = ("config.yaml", "metrics.csv", "checkpoints", "figures", "wandb")
_STEP_FILE = re.compile(r"step-(\d+)\.ckpt")
# Settings without which the checkpoint's weights do not fit the network, or the optimizer's state
# what of it is trained.
_FIXED = ("model.", "objective.skip_connections", "objective.reconstruction", "data.modalities")
_STAGES = "objective.stages."
_LOSSES = "objective.losses"  # of which some train the fusion encoder where nothing else does
# Settings that older runs have under other names.
_RENAMED = {"hardware.accelerator": "device", "data.workers": "workers"}

# Counts in the note beside a checkpoint.
_COUNTED = ("step", "batches", "batch_size", "global_batch")

FileNote = dict[str, int | str]  # bytes, sha256


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """Where a run goes on."""

    checkpoint: Path | None = None  # None: it begins
    step: int = 0  # optimizer steps that are done
    first_batch: int = 0  # batches that all processes together have taken
    accumulate: int  # batches of each process in one optimizer step
    data: str = ""  # what it was trained on (``ClipStream.content``), where that is known
    lines: tuple[str, ...] = ()  # for the user

    @property
    def name(self) -> str:
        """Of the checkpoint; '' where it begins."""
        return self.checkpoint.name if self.checkpoint else ""


def find_resumption(
    config: PretrainConfig, *, world_size: int, chosen: str | None = None, digests: bool = True
) -> Resumption:
    """Look at the newest whole checkpoint of a run folder.

    Args:
        world_size: Processes that go on.
        chosen: Name of the checkpoint that another process has chosen ('' for none), if it has.
        digests: Whether files are read to compare their digests, besides their sizes.

    Raises: ValueError: all checkpoints are damaged, or the clips of one optimizer step cannot be
        what they were.
    """
    batch_size, accumulate = config.data.batch_size, config.accumulate
    if chosen is None:
        checkpoint, lines = newest_checkpoint(config.out, digests=digests)
    else:
        checkpoint, lines = config.out / "checkpoints" / chosen if chosen else None, []
    if checkpoint is None:
        return Resumption(accumulate=accumulate)
    note = read_note(note_of(checkpoint))
    before, now = note["global_batch"], batch_size * world_size
    if before % now:
        raise ValueError(
            f"{checkpoint}: an optimizer step of this run takes {before} clips, which {world_size} "
            f"processes with data.batch_size = {batch_size} cannot share evenly; change "
            "hardware.devices or data.batch_size"
        )
    fitting = before // now
    if fitting != accumulate:
        lines.append(
            f"accumulate = {fitting} instead of {accumulate}: {world_size} processes take the same "
            f"{before} clips a step"
        )
    return Resumption(
        checkpoint=checkpoint,
        step=note["step"],
        first_batch=note["batches"] * note["batch_size"] // batch_size,
        accumulate=fitting,
        data=note.get("data", ""),
        lines=tuple(lines),
    )


def since_chosen(out: Path, resumption: Resumption) -> Path | None:
    """A checkpoint newer than the chosen one that nobody has found damaged; None: as it was."""
    for path in step_files(out / "checkpoints"):
        is_known = any(line.startswith(f"{path}: damaged") for line in resumption.lines)
        if step_of(path) > resumption.step and not is_known:
            return path
    return None


def foreign(out: Path) -> str:
    """A line about what is no folder for a run, or one of something else; nothing: it is one."""
    if out.exists() and not out.is_dir():
        return f"{out}: is a file; give a folder for the run with --out"
    for name, what in ((INFO_NAME, "shards"), ("benchmark.yaml", "a fine-tuning run")):
        if (out / name).exists():
            return f"{out}: holds {what}; give another folder for the run with --out"
    return ""


def held_run(out: Path) -> list[str]:
    """What of a run is in a folder already."""
    return [name for name in _RUN_PARTS if (out / name).exists()]


def prepare_folder(out: Path, *, resume: bool, overwrite: bool) -> IO[bytes]:
    """Make the run folder ready.

    Returns: what keeps other processes from writing into it, until it is closed.
    Raises: ValueError: it is a file, it holds a run that is neither resumed nor overwritten, or
        another process writes into it.
    """
    if problem := foreign(out):
        raise ValueError(problem)
    there = held_run(out)
    if there and not (resume or overwrite):
        raise ValueError(
            f"{out}: holds a run already ({', '.join(there)}); pass --resume to go on with it, "
            "--overwrite to delete it, or another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    lock = only_writer(out)
    if overwrite:
        for name in there:
            remove(out / name)
        for report in out.glob("nonfinite-step-*.json"):
            report.unlink()
    (out / "checkpoints").mkdir(exist_ok=True)
    return lock


def compare_settings(config: PretrainConfig) -> list[str]:
    """Compare what a run is resumed with to what it was started with.

    Returns: one line for each setting that differs; the new ones count from now on.
    Raises: ValueError: the network is another one, or nothing says which one it was.
    """
    path = config.out / "config.yaml"
    saved = load_yaml(path) if path.exists() else {}
    if not saved:
        raise ValueError(
            f"{path}: is missing or empty, and it says of what network the checkpoints beside it "
            "are; bring it back to resume (checkpoints/last/config.json has the same settings "
            "under 'pretraining'), begin again with --overwrite, or give another --out"
        )
    before = dict(leaves(saved))
    for old, new in _RENAMED.items():  # a run that older code began
        if old in before:
            value = before.pop(old)
            before[new] = "cuda" if value == "gpu" else value
    before.setdefault("data.modalities", "audio-video")
    window = before.pop("data.shuffle_buffer", None)
    now = dict(leaves(to_dict(config)))
    changed = [
        name
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name) and name != "out" and not name.startswith("wandb.")
    ]
    fixed: tuple[str, ...] = _FIXED
    if not config.objective.reconstruction and any(name.startswith(_LOSSES) for name in changed):
        objective = from_dict(ObjectiveConfig, saved.get("objective", {}), str(path))
        if _trained(config) != _trained(replace(config, objective=objective)):
            fixed = (*_FIXED, _LOSSES)
    wrong = [name for name in changed if name.startswith(fixed)]
    if wrong:
        told = [f"{name} was {before.get(name)}, now {now.get(name)}" for name in wrong]
        what = "; ".join(told[:4] + ["…"] * bool(told[4:]))
        raise ValueError(
            f"{path}: the run to resume trains other parameters, or another network ({what}); "
            "resume with the same settings, or give another --out"
        )
    lines = [f"resumed with {name} = {now.get(name)}, was {before.get(name)}" for name in changed]
    # Stages come one after another; which one when is more than their lengths say.
    stages = [[name for name in leaves if name.startswith(_STAGES)] for leaves in (before, now)]
    if stages[0] != stages[1] and sorted(stages[0]) == sorted(stages[1]):
        then, here = (", ".join(name.removeprefix(_STAGES) for name in names) for names in stages)
        lines.append(f"resumed with objective.stages in the order {here}, was {then}")
    if window is not None:
        lines.append(
            f"begun when samples were shuffled within a window (data.shuffle_buffer = {window}); "
            "from here on they come in another order, see data.shuffle_shards"
        )
    return lines


def newest_checkpoint(out: Path, *, digests: bool = True) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole: what ``--resume`` goes on from.

    Returns: its path, or None where the run has not saved any; and a line for each newer one that
        is damaged.
    Raises: ValueError: all of them are, or only the portable checkpoint is left.
    """
    lines: list[str] = []
    for path in reversed(step_files(out / "checkpoints")):
        try:
            problem = damage(path.parent, read_note(note_of(path))["files"], digests=digests)
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
    folder = out / "checkpoints"
    # Of a process that was killed over its first one, which would have come behind the portable.
    begun = any(folder.glob(".step-*.part"))
    if is_checkpoint(folder / "last") and not begun:
        raise ValueError(
            f"{folder}: has no step-….ckpt to go on from beside last, which training would replace;"
            " fine-tune last as it is, begin again with --overwrite, or give another --out"
        )
    return None, []


def clear_leftovers(out: Path, *, newest: Path | None) -> None:
    """Remove what a killed process left half-written, and set aside what is newer than ``newest``.

    That is the checkpoint that is gone on from; newer ones are damaged. None: the run begins.
    """
    folder = out / "checkpoints"
    if newest is None:
        shutil.rmtree(folder / "last", ignore_errors=True)
    for path in step_files(folder):
        if newest is not None and step_of(path) > step_of(newest):
            path.replace(path.with_name(f"{path.name}.damaged"))
    for path in folder.glob(".*"):
        remove(path)
    whole = {path.stem for path in step_files(folder)}
    for path in folder.glob("step-*"):
        if path.suffix in (".json", ".shards") and path.stem not in whole:
            remove(path)


class Checkpoints(StepCallback):
    """Saves ``step-000100.ckpt`` to resume from, and the portable ``last/`` with it.

    Training goes on while a checkpoint is written. The next one waits for it, and so does the end
    of the run; if it could not be written, that is where all processes stop.

    One is also saved when training ends.

    Args:
        every: Optimizer steps between two.
        gather: Gives what each process has, off the device (``SideGroup.gather``).
    """

    def __init__(
        self,
        folder: Path,
        files: CheckpointFiles,
        *,
        every: int,
        gather: Callable[[bool], list[bool]],
    ) -> None:
        self.folder = folder
        self.files = files
        self.every = every
        self.gather = gather

    def act(self, trainer: pl.Trainer, module: PretrainModule, batch: Batch | None) -> None:
        """Save; all processes take part: some engines have a part of the state in each."""
        self._finish()
        trainer.save_checkpoint(
            self.folder / f"step-{trainer.global_step:06d}.ckpt", weights_only=False
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where the run ended, or was stopped, and wait until it is written."""
        self.act_once(trainer, pl_module)
        self._finish()

    def on_exception(self, *_: Any) -> None:
        self.files.finish()

    def _finish(self) -> None:
        """Wait for the checkpoint that is being written; if one process failed, all fail."""
        error = self.files.finish()
        failed = any(self.gather(error is not None))
        if error is not None:
            raise error
        if failed:
            raise ValueError(f"{self.folder}: another process could not write its checkpoint")


class Portable:
    """Writes ``last/``: weights and configuration (``sections``), which fine-tuning takes."""

    def __init__(self, folder: Path, sections: Mapping[str, Any]) -> None:
        self.folder = folder
        self.sections = dict(sections)
        # Only names and shapes: the weights are handed over, whoever has gathered them.
        with torch.device("meta"):
            self._network = HiCMAE(sections["model"], sections["objective"])

    def __call__(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Write it and force it to the disk."""
        self._network.load_state_dict(weights, assign=True)
        config = {**self.sections, "step": step}
        save_checkpoint(self.folder, self._network, kind="pretraining", config=config)
        for path in (*self.folder.iterdir(), self.folder):
            sync_to_disk(path)

    def restore(self, checkpoint: Path) -> None:
        """Write it from the whole state, where it was deleted."""
        whole = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        self(_weights(whole), int(whole["global_step"]))


class CheckpointFiles(CheckpointIO):
    """Writes one checkpoint at a time, in a thread, from a copy in memory.

    Args:
        keep: How many checkpoints are kept, the newest ones.
        keep_every: Steps between checkpoints that are kept for good besides; 0: none.
        portable: Writes the portable checkpoint of weights (by name) and step.
        data: What is trained on (``ClipStream.content``), for the note.
    """

    def __init__(
        self,
        *,
        keep: int,
        keep_every: int,
        portable: Callable[[Mapping[str, Tensor], int], None],
        data: str = "",
    ) -> None:
        self.keep = keep
        self.keep_every = keep_every
        self.portable = portable
        self.data = data
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Take a copy and begin to write it; on the first process only."""
        assert self._pending is None, "finish() comes first"
        self._pending = self._thread.submit(self._write, host_copy(checkpoint), Path(path))

    def finish(self) -> Exception | None:
        """Wait until what was begun is written; why it could not be, if so."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        error = pending.exception()
        assert error is None or isinstance(error, Exception)
        return error

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the whole state, to the CPU."""
        loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint and what is beside it; the name that makes it one goes first."""
        path = Path(path)
        path.unlink(missing_ok=True)
        note_of(path).unlink(missing_ok=True)
        # DeepSpeed's parts, which older runs left beside it.
        shutil.rmtree(path.with_suffix(".shards"), ignore_errors=True)

    def teardown(self) -> None:
        self._thread.shutdown()

    def _write(self, whole: dict[str, Any], path: Path) -> None:
        step = int(whole["global_step"])
        with whole_file(path, sync=True) as part:
            files = {path.name: save_tensors(part, whole)}
            # Before the publication: a crash in between leaves weights that are too new, not old.
            self.portable(_weights(whole), step)
            self.remove_checkpoint(path)
            note = {"step": step, **whole["place"], "data": self.data, "files": files}
            write_json(note_of(path), note, sync=True)
        for old in step_files(path.parent)[: -self.keep]:
            if not self.keep_every or step_of(old) % self.keep_every:
                self.remove_checkpoint(old)


def step_files(folder: Path) -> list[Path]:
    """The resumable checkpoints of a ``checkpoints/`` folder, oldest first."""
    found = [path for path in folder.glob("step-*.ckpt") if _STEP_FILE.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    match = _STEP_FILE.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def note_of(path: Path) -> Path:
    """The file with lengths and digests beside a checkpoint."""
    return path.with_suffix(".json")


def host_copy(data: Any) -> Any:
    """A copy on the CPU that shares nothing with what it was made of."""
    if isinstance(data, Tensor):
        return data.detach().to("cpu", copy=True)
    if isinstance(data, dict):
        copied = copy.copy(data)
        for key, value in data.items():
            copied[key] = host_copy(value)
        return copied
    if type(data) in (list, tuple):
        return type(data)(host_copy(value) for value in data)
    return copy.deepcopy(data)


def save_tensors(path: Path, data: Any) -> FileNote:
    """Write with ``torch.save``, force it to the disk, and read it back; its length and digest.

    Raises: OSError: it cannot be written, or what is read back is something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        digesting = DigestingFile(file.write)
        torch.save(data, digesting)  # type: ignore[arg-type]
        _force(file)
    note: FileNote = {"bytes": digesting.num_bytes, "sha256": digesting.sha256}
    problem = _compare(path, note)
    if problem:
        raise OSError(f"{path}: {problem} just after it was written; look at the disk")
    return note


def read_note(path: Path) -> dict[str, Any]:
    """Read a note; ValueError: not there, or not readable."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(note["files"], dict)
        assert all(isinstance(note[name], int) for name in _COUNTED)
    except FileNotFoundError:
        raise ValueError(f"no {path.name} beside it") from None
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise ValueError(f"{path.name} is damaged") from None
    return dict(note)


def damage(folder: Path, files: Mapping[str, FileNote], *, digests: bool = True) -> str:
    """What is wrong with the files of a folder, of which there are notes by name, or nothing."""
    for name, note in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if problem := _compare(folder / name, note, digests=digests):
            return f"{name} {problem}"
    return ""


def _weights(whole: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's of the whole state, by name."""
    return {name.removeprefix("model."): value for name, value in whole["state_dict"].items()}


def _force(file: BinaryIO) -> None:
    """To the disk, and out of the cache, so that reading it back reads the disk."""
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _compare(path: Path, note: FileNote, *, digests: bool = True) -> str:
    """What differs from the note, or nothing."""
    if path.stat().st_size != note["bytes"]:
        return f"has {path.stat().st_size} bytes instead of {note['bytes']}"
    if digests and file_sha256(path) != note["sha256"]:
        return "does not have its digest"
    return ""


def _trained(config: PretrainConfig) -> list[str]:
    """Names of the parameters that a run trains."""
    with torch.device("meta"):
        network = HiCMAE(config.model, config.objective, config.data.modalities)
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]
