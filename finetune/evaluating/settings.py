"""Settings of testing trained networks.

For: options of verbs, whose help needs no PyTorch. Not for: what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hicmae.precision import resolve_precision

What = Literal["pooled", "layers", "fused"]


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """On what networks are tested; none of it changes what is tested.

    Args:
        accelerator: auto: a GPU where there is one; cpu; gpu.
        precision: auto: bf16-mixed where the machine computes in bfloat16, else 32-true.
        batch_size: Clips handled at once (each in all its crops).
        workers: Reading processes; 0 reads in the testing process.
    """

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    batch_size: int = 16
    workers: int = 2

    def __post_init__(self) -> None:
        problems = []
        if self.batch_size < 1:
            problems.append(f"batch_size = {self.batch_size} (must be 1 or more)")
        if self.workers < 0:
            problems.append(f"workers = {self.workers} (must be 0 or more)")
        if problems:
            raise ValueError(f"machine: {'; '.join(problems)}")

    @property
    def resolved_precision(self) -> str:
        """The number format, with ``auto`` decided."""
        return resolve_precision(self.precision, accelerator=self.accelerator)


@dataclass(frozen=True, kw_only=True)
class PerturbationConfig:
    """How clips are spoiled.

    Args:
        swaps: Permutations in which each sample has another one's sound (and that one its
            picture); mean and deviation are over them. 0: none.
        snr_db: White noise in the sound, decibels of the clip's power over the noise's.
        picture_sd: Gaussian noise in the picture, standard deviation in steps of 255.
        missing_shares: Shares of a clip's frames that are missing; the last one before a gap is
            shown on.
        seed: Of all draws.
    """

    swaps: int = 5
    snr_db: tuple[float, ...] = (20.0, 10.0, 0.0, -10.0)
    picture_sd: tuple[float, ...] = (10.0, 25.0, 50.0, 100.0)
    missing_shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        for name in ("swaps", "seed"):
            if getattr(self, name) < 0:
                problems.append(f"{name} = {getattr(self, name)} (must be 0 or more)")
        problems += [
            f"picture_sd = {value} (must be positive)" for value in self.picture_sd if value <= 0
        ]
        problems += [
            f"missing_shares = {value} (must lie in (0, 1))"
            for value in self.missing_shares
            if not 0 < value < 1
        ]
        for name in ("snr_db", "picture_sd", "missing_shares"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                problems.append(f"{name} = {list(values)} (each once)")
        if problems:
            raise ValueError(f"perturb: {'; '.join(problems)}")
