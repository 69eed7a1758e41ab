"""How many samples that cannot be read a run bears.

For: the budget ``data.max_bad``. Not for: finding bad samples (``shards/``) or counting them in
``metrics.csv`` (``pretrain/meter.py``).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytorch_lightning as pl

from pretrain.module import Batch

# Which samples have no sound stands in the index; they were counted before the run.
EXPECTED_CAUSES = ("no-sound",)
# A share is not judged by the first few samples.
LEAST_SAMPLES = 200


class TooManyBadError(ValueError):
    """More samples than ``data.max_bad`` allows could not be read."""


class BadSamples(pl.Callback):
    """Counts the samples that readers left out, and stops the run when they are too many.

    Args:
        max_bad: Below 1 a share of the samples so far, of ``LEAST_SAMPLES`` at least; from 1 on a
            count.

    Attributes:
        error: Why the run was stopped, if it was.
    """

    def __init__(self, max_bad: float) -> None:
        self.max_bad = max_bad
        self.error: TooManyBadError | None = None
        self._causes: Counter[str] = Counter()  # in this process
        self._good, self._bad = 0, 0  # in this process, since the last step
        self._all_good, self._all_bad = 0, 0  # in all processes, of the whole run

    def state_dict(self) -> dict[str, Any]:
        """Totals that a resumed run goes on with."""
        return {"good": self._all_good, "bad": self._all_bad}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the totals of the run that is resumed."""
        self._all_good, self._all_bad = state_dict["good"], state_dict["bad"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Count what came and what was left out on the way."""
        self._good += len(batch["keys"])
        skipped = batch.get("skipped")
        if skipped:
            bad = {cause: n for cause, n in skipped.items() if cause not in EXPECTED_CAUSES}
            self._causes.update(bad)
            self._bad += sum(bad.values())

    def seen(self) -> tuple[int, ...]:
        """Good and bad samples since the last step."""
        counts = self._good, self._bad
        self._good, self._bad = 0, 0
        return counts

    def settle(self, trainer: pl.Trainer, totals: tuple[int, ...]) -> bool:
        """Stop if there are too many."""
        self._all_good += totals[0]
        self._all_bad += totals[1]
        together = self._all_good + self._all_bad
        allowed = self.max_bad
        if self.max_bad < 1:
            allowed *= max(together, LEAST_SAMPLES)
        if self._all_bad <= allowed:
            return False
        here = ", ".join(f"{cause} {n}" for cause, n in sorted(self._causes.items()))
        self.error = TooManyBadError(
            f"data: {self._all_bad} of {together} samples could not be read "
            f"({here or 'all in other processes'}), more than data.max_bad = {self.max_bad:g} "
            f"allows; saved after step {trainer.global_step}; look at them with `hicmae shards "
            "check`, then --resume, with another --data.max_bad if they are to be borne"
        )
        return True
