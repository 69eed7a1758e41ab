"""Portable checkpoints: a folder of weights and the configuration that made them.

A checkpoint is ``model.safetensors`` and ``config.json``; it knows its own sizes. Beside them may
lie ``probe.safetensors`` (an input with its output) and ``README.md`` (the model card, see
``hicmae/checkpoints/card.py``). Optimizer states are not in it: Lightning's own files keep those.

Deviation: the reference ignores names that do not match; here every difference is an error.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hicmae.config import from_dict, to_dict
from hicmae.encoder import AudioVisualEncoder
from hicmae.files import file_sha256, whole_file, whole_folder
from hicmae.heads import HeadLabels, output_names
from hicmae.settings import ModelConfig, raise_all

FORMAT_VERSION = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
PROBE = "probe.safetensors"
CARD = "README.md"
SEEN_SECTION = "seen"  # of the configuration
Kind = Literal["pretraining", "emotion"]
# Real values of one axis: the largest is no larger than so many times the smallest.
_ONE_SCALE = 5.0
# Sections that are mappings; the latter may be null.
_MAPPINGS = ("model", "emotion", "finetuning", "protocol", "over_time", "traces")
_MAPPINGS_OR_NULL = ("scores", "data", "source")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the outputs of a fine-tuned network stand for.

    Real values, over the training side and in the unit of the labels, are the network's outputs
    times ``std`` plus ``mean``; classes have neither. Of several heads (``joint``) the outputs
    stand one after another, and what is no real value has mean 0 and deviation 1.
    """

    task: Literal["classification", "regression", "joint"]
    names: tuple[str, ...]  # one for each output, in order
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    heads: tuple[HeadLabels, ...] = field(default=(), metadata={"omit_default": True})

    def __post_init__(self) -> None:
        problems = []
        if (self.task == "joint") != bool(self.heads):
            problems.append(f"{len(self.heads)} heads for task {self.task}")
        elif self.heads and output_names(self.heads) != self.names:
            problems.append("names are not those of the heads")
        if not self.names or len(set(self.names)) != len(self.names):
            problems.append(f"names = {list(self.names)} (must be one or more, each once)")
        wanted = 0 if self.task == "classification" else len(self.names)
        for name in ("mean", "std"):
            if len(getattr(self, name)) != wanted:
                problems.append(f"{name} has {len(getattr(self, name))} values, not {wanted}")
        raise_all("labels", problems)

    @property
    def sizes(self) -> tuple[float, ...]:
        """Of each output how large it gets: of a real value its mean and two deviations in
        training, else 1.
        """
        real = enumerate(self._real)
        return tuple(abs(self.mean[n]) + 2 * self.std[n] if is_real else 1.0 for n, is_real in real)

    @property
    def scales(self) -> tuple[tuple[int, ...], ...]:
        """Places of the real values, those together that one axis can show: whose sizes are within
        a factor of 5. All other outputs lie in 0..1.
        """
        found: list[tuple[float, list[int]]] = []
        for place, size in enumerate(self.sizes):
            if not self._real[place]:
                continue
            for first, places in found:
                if max(size, first) <= _ONE_SCALE * min(size, first):
                    places.append(place)
                    break
            else:
                found.append((size, [place]))
        return tuple(tuple(places) for _, places in found)

    @property
    def _real(self) -> list[bool]:
        each: list[str] = [head.kind for head in self.heads for _ in head.names]
        return [kind == "regression" for kind in each or [self.task] * len(self.names)]

    @property
    def short_names(self) -> tuple[str, ...]:
        """Of several heads, names without the head's, if no two are the same; else the names."""
        short = tuple(name for head in self.heads for name in head.names)
        return short if self.heads and len(set(short)) == len(short) else self.names


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How sure a fine-tuned network of classes may be, fitted on samples it was not trained on.

    Args:
        temperature: Logits are divided by it, before they become probabilities.
        threshold: Where no class is as probable, none of them is the answer.
        answered: Share of the samples of the fit that have an answer.
        num_samples: How many they were.
        surprise: Mean negative logarithm of the true class's probability at the temperature, nats.
        surprise_before: The same at temperature 1.
    """

    temperature: float
    threshold: float
    answered: float
    num_samples: int
    surprise: float
    surprise_before: float

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 0 <= self.threshold <= 1):
            raise ValueError(
                f"calibration: temperature = {self.temperature} (must be positive), threshold = "
                f"{self.threshold} (must lie in 0..1)"
            )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Samples and speakers of every training on labels that led to a network.

    Whoever fine-tunes it again proves with them that no sample of the test side, and nobody on it,
    was in an earlier training. Digests have 64 bits: two of a million different samples are
    mistaken for each other once in 40 million cases. What a sample is known by is fine-tuning's to
    say.

    Args:
        trainings: What they were, such as ``mafw, fold 1``, each once.
        samples: Digests (N,) uint64, ascending; a sample may have several.
        speakers: Digests (M,) uint64, ascending.
    """

    trainings: tuple[str, ...]
    samples: np.ndarray
    speakers: np.ndarray

    def section(self) -> dict[str, Any]:
        """The section ``seen`` of a checkpoint; digests are little-endian, in base64."""
        return {
            "trainings": list(self.trainings),
            "samples": base64.b64encode(self.samples.astype("<u8").tobytes()).decode(),
            "speakers": base64.b64encode(self.speakers.astype("<u8").tobytes()).decode(),
        }


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read."""

    path: Path  # its folder
    kind: Kind
    config: dict[str, Any]  # named sections; ``model`` is always there
    tensors: dict[str, Tensor]  # by parameter name
    weights_sha256: str | None = None  # as it should be; none in files of early versions

    def model_config(self) -> ModelConfig:
        """Sizes of the network that the weights belong to."""
        return from_dict(ModelConfig, self.config["model"], where=f"{self.path / CONFIG}: model")

    def labels(self) -> Labels | None:
        """What the outputs stand for; ``None``: a pretrained network, or nobody has said.

        Raises: ValueError: the configuration contradicts itself.
        """
        where = f"{self.path / CONFIG}: labels"
        if "labels" in self.config:
            return from_dict(Labels, self.config["labels"], where=where)
        benchmark, targets = self.config.get("benchmark"), self.config.get("targets")
        if targets is not None:
            return from_dict(Labels, {"task": "regression", **targets}, where=where)
        if benchmark is not None and benchmark.get("classes"):
            names = {"task": "classification", "names": benchmark["classes"]}
            return from_dict(Labels, names, where=where)
        return None

    def calibration(self) -> Calibration | None:
        """How sure it may be; ``None``: nobody has fitted that.

        Raises: ValueError: the configuration contradicts itself.
        """
        found = self.config.get("calibration")
        where = f"{self.path / CONFIG}: calibration"
        return None if found is None else from_dict(Calibration, found, where=where)

    def smoothing_seconds(self) -> float:
        """Window over which predictions of a recording are averaged, as its training chose it.

        Raises: ValueError: it is no time.
        """
        return self._seconds("over_time", "smoothing_seconds", least=0.0)

    def shift_seconds(self) -> float:
        """How long after the middle of a window its value is, where training had labels over time
        elsewhere than in the middle of what is shown.

        Raises: ValueError: it is no time.
        """
        return self._seconds("traces", "shift_seconds", least=-1e6)

    def _seconds(self, section: str, name: str, *, least: float) -> float:
        found = self.config.get(section, {}).get(name, 0.0)
        if not isinstance(found, int | float) or not least <= found < float("inf"):
            raise ValueError(
                f"{self.path / CONFIG}: {section}.{name} = {found!r} (must be seconds from"
                f" {least:g})"
            )
        return float(found)


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint folder, or the newest one of a run folder (``checkpoints/last``).

    Raises: ValueError: nothing there, unreadable, or of a format this version does not know.
    """
    folder = Path(path)
    for candidate in (folder, folder / "checkpoints" / "last"):
        if is_checkpoint(candidate):
            return _read(candidate)
    folds = sorted(one for one in folder.glob("fold-*") if is_checkpoint(one / "checkpoints/last"))
    if folds:
        raise ValueError(
            f"{folder}: is a run of {len(folds)} folds, each with a checkpoint of its own; name one"
            f" of them, such as {folds[0]}"
        )
    # Modalities and seeds lie at most two folders deep.
    inside = [path.parent for deep in ("*", "*/*") for path in folder.glob(f"{deep}/fold-*")]
    if runs := sorted({path.relative_to(folder).as_posix() for path in inside}):
        raise ValueError(f"{folder}: holds runs ({', '.join(runs)}); name one of them")
    found = "is a file" if folder.is_file() else "no such folder"
    if folder.is_dir():
        found = f"found no {WEIGHTS} with {CONFIG} there or in checkpoints/last"
    raise ValueError(f"{folder}: {found}; give a run folder or a checkpoint folder")


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds the two files of a checkpoint."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def save_checkpoint(
    folder: Path, model: nn.Module, *, kind: Kind, config: Mapping[str, Any]
) -> None:
    """Write a checkpoint folder, beside its place and then renamed into it.

    Args:
        folder: Where it goes; a checkpoint that is there is replaced.
        model, kind: HiCMAE or EmotionModel, and which of them.
        config: Sections by name, dataclasses or plain values; must have ``model``.
    """
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with whole_folder(folder) as beside:
        write_files(beside, tensors, kind=kind, config=config)


def write_files(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    kind: Kind,
    config: Mapping[str, Any],
    probe: Mapping[str, Tensor] | None = None,
    card: str | None = None,
) -> None:
    """Write the files of a checkpoint into a folder; they get their names when all are written, and
    ``config.json``, which makes it a checkpoint, comes last: one that is there stays till then.

    Args:
        folder: Where they go; other files there stay.
        config: As of ``save_checkpoint``.
        probe: An input with the network's output (``hicmae/checkpoints/portable.py``).
    """
    assert "model" in config, "a checkpoint carries the sizes of its network"
    parts = {WEIGHTS: tensors} if probe is None else {WEIGHTS: tensors, PROBE: probe}
    with ExitStack() as files:  # what is opened first gets its name last
        written: dict[str, Path] = {}
        for name in (CONFIG, *([] if card is None else [CARD]), *reversed(parts)):
            written[name] = files.enter_context(whole_file(folder / name, sync=True))
        for name, values in parts.items():
            save_file({key: value.contiguous() for key, value in values.items()}, written[name])
        if card is not None:
            written[CARD].write_text(card, encoding="utf-8", newline="")
        document = {
            "format_version": FORMAT_VERSION,
            "kind": kind,
            "weights_sha256": file_sha256(written[WEIGHTS]),
            **to_dict(config),
        }
        written[CONFIG].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        (folder / CONFIG).unlink(missing_ok=True)


def load_encoder(encoder: AudioVisualEncoder, checkpoint: Checkpoint) -> None:
    """Load the encoder's weights from a checkpoint of either kind, strictly.

    Raises: ValueError: a missing, extra or misshapen tensor; all are named.
    """
    prefix = "encoder."
    tensors = {
        name.removeprefix(prefix): value
        for name, value in checkpoint.tensors.items()
        if name.startswith(prefix)
    }
    load_weights(encoder, tensors, where=f"{checkpoint.path / WEIGHTS}: encoder")


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Load weights strictly into a module.

    Raises: ValueError: missing, extra or misshapen tensors, each named in one line.
    """
    problems = misfits(module.state_dict(), tensors)
    if problems:
        shown = "; ".join(problems[:6])
        more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise ValueError(
            f"{where}: {len(problems)} tensors do not fit this network ({shown}{more}); "
            "use the sizes that the checkpoint was made with"
        )
    module.load_state_dict(tensors)


def misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Say of each tensor by name what is wrong with it: missing, extra or misshapen."""
    problems = [f"missing {name}" for name in wanted if name not in found]
    problems += [f"extra {name}" for name in found if name not in wanted]
    return problems + [
        f"{name} is {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]


def check_finite(tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Refuse infinite values and such that are no numbers.

    Raises: ValueError: there are; the tensors are named.
    """
    broken = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if broken:
        more = f" and {len(broken) - 6} more tensors" if len(broken) > 6 else ""
        raise ValueError(
            f"{where}: infinite values or none at all in {', '.join(broken[:6])}{more}"
        )


def digests(texts: Iterable[str]) -> np.ndarray:
    """BLAKE2b with 64 bits of texts. Returns: (N,) uint64, in their order."""
    found = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(found, dtype="<u8").astype(np.uint64)


def seen_of(config: Mapping[str, Any], where: str) -> Seen | None:
    """What a checkpoint's configuration says; none where it says nothing.

    Raises: ValueError: the section is damaged; ``where`` says of what.
    """
    if SEEN_SECTION not in config:
        return None
    try:
        section = config[SEEN_SECTION]
        samples, speakers = (
            np.frombuffer(base64.b64decode(section[name], validate=True), dtype="<u8")
            for name in ("samples", "speakers")
        )
        trainings = tuple(map(str, section["trainings"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: damaged configuration (section '{SEEN_SECTION}': {error}); take another copy"
        ) from error
    return Seen(trainings=trainings, samples=samples, speakers=speakers)


def union(parts: Sequence[Seen]) -> Seen:
    """All that any of some networks has seen."""
    return Seen(
        trainings=tuple(dict.fromkeys(name for part in parts for name in part.trainings)),
        samples=np.unique(np.concatenate([part.samples for part in parts])),
        speakers=np.unique(np.concatenate([part.speakers for part in parts])),
    )


def _read(folder: Path) -> Checkpoint:
    try:
        document = dict(json.loads((folder / CONFIG).read_text()))
        version, kind = document.pop("format_version"), document.pop("kind")
        digest = document.pop("weights_sha256", None)
        tensors = load_file(folder / WEIGHTS)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG}: damaged configuration ({error})") from error
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS}: damaged weights ({error})") from error
    if version != FORMAT_VERSION or kind not in ("pretraining", "emotion"):
        raise ValueError(
            f"{folder / CONFIG}: format {version} of kind {kind!r} is not known here "
            f"(format {FORMAT_VERSION}, pretraining or emotion); upgrade hicmae"
        )
    sections = ("model", "emotion") if kind == "emotion" else ("model",)
    if missing := [name for name in sections if name not in document]:
        raise ValueError(f"{folder / CONFIG}: damaged configuration (no section {missing[0]!r})")
    for name in (*_MAPPINGS, *_MAPPINGS_OR_NULL):
        found = document.get(name, {})
        if not (isinstance(found, dict) or (found is None and name in _MAPPINGS_OR_NULL)):
            said = f"section {name!r} is {found!r}, no mapping"
            raise ValueError(f"{folder / CONFIG}: damaged configuration ({said})")
    return Checkpoint(
        path=folder, kind=kind, config=document, tensors=tensors, weights_sha256=digest
    )
