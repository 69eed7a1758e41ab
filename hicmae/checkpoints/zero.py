"""DeepSpeed's sharded folders to one checkpoint.

For: the weights of ``step-*.ckpt/`` folders that ZeRO training writes, one part a process. Not for:
resuming, for which DeepSpeed needs the folder as it is.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from torch import Tensor

from hicmae.checkpoint import Checkpoint, misfits

# What DeepSpeed's own files, and NumPy's random states in Lightning's part, import when unpickled.
_EXPECTED = {
    "argparse.Namespace",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "_codecs.encode",
}


def merge_zero(folder: Path, like: Checkpoint) -> Checkpoint:
    """Put the parts of a ZeRO folder (stage 1, 2 or 3) together, in float32.

    Args:
        folder: The folder with ``latest`` and a folder of ``*_states.pt`` files.
        like: A checkpoint of the same run: what the network is, and how its tensors are called.

    Returns: a checkpoint that lies nowhere yet, with the configuration of ``like``.
    Raises: ValueError: no such folder, parts that are missing or hold more than weights, or other
        tensors than ``like`` has.
    """
    files = sorted(folder.glob("*/*_states.pt"))
    latest = folder / "latest"
    if not files or not latest.is_file():
        raise ValueError(
            f"{folder}: no DeepSpeed checkpoint (wanted 'latest' and */*_states.pt); give the "
            "folder step-….ckpt of a run"
        )
    for file in files:
        _refuse_code(file)
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    try:
        chatter = io.StringIO()
        with contextlib.redirect_stdout(chatter), contextlib.redirect_stderr(chatter):
            tensors = get_fp32_state_dict_from_zero_checkpoint(str(folder))
    except (FileNotFoundError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{folder}: parts are missing or damaged ({error})") from error
    prefix = _prefix(tensors, like, folder)
    found = {
        name.removeprefix(prefix): value.detach().clone()
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    problems = misfits(like.tensors, found)
    if problems:
        raise ValueError(
            f"{folder}: {len(problems)} tensors are not as in {like.path} ({'; '.join(problems)})"
        )
    weights = {name: found[name].to(value.dtype) for name, value in like.tensors.items()}
    config = {name: part for name, part in like.config.items() if name not in ("step", "probe")}
    config["merged_from"] = str(folder)
    return Checkpoint(path=like.path, kind=like.kind, config=config, tensors=weights)


def _refuse_code(file: Path) -> None:
    """Refuse a part that would import anything but what DeepSpeed writes.

    Raises: ValueError: it does, or is damaged.
    """
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception as error:  # whatever a torn archive raises, it is damaged
        raise ValueError(f"{file}: damaged ({str(error).splitlines()[0]})") from error
    foreign = sorted(set(names) - _EXPECTED)
    if foreign:
        raise ValueError(
            f"{file}: holds {', '.join(foreign)}, which no DeepSpeed checkpoint of this project "
            "does and which could run code; it is not read"
        )


def _prefix(tensors: dict[str, Tensor], like: Checkpoint, folder: Path) -> str:
    """What stands before the network's own names, such as ``model.``."""
    first = next(iter(like.tensors))
    for name in tensors:
        if name == first or name.endswith(f".{first}"):
            return name.removesuffix(first)
    raise ValueError(f"{folder}: no tensor '{first}' as in {like.path}; of another network?")
