"""What the tests of testing and reporting share: one trained run, and figures that stay blank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import run_tiny, write_labelled_shards, wrong_labels
from tests.support.shared import made_once

# On what the tests' networks run, as options of every verb.
CPU: dict[str, Any] = {"device": "cpu", "precision": "32-true", "batch_size": 7, "workers": 0}
_DRAW = Figure.draw


@contextmanager
def blank_figures() -> Iterator[None]:
    """Figures are empty: drawing them takes longer than everything else in a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", lambda figure, renderer: None)
        yield


@contextmanager
def drawn_figures() -> Iterator[None]:
    """Figures are drawn, where they are empty else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", _DRAW)
        yield


def trained_run(factory: pytest.TempPathFactory, sizes: ModelConfig) -> Path:
    """A folder with ``shards`` and a ``run`` of two folds of them, chosen best on the test.

    A third of the labels is wrong, so that scores lie between chance and 1; ``sex`` is a column
    that the benchmark does not name.
    """

    def make(folder: Path) -> None:
        changes = wrong_labels()
        for number in range(24):
            sex = "f" if (number // 2) % 4 < 2 else "m"
            change = changes.setdefault(number, {})
            change["labels"] = {
                **change.get("labels", {}),
                "sex": sex,
                "height": 1.5 + number / 100,
            }
        write_labelled_shards(folder / "shards", changes=changes)
        with blank_figures():
            run_tiny(folder, folder / "shards", sizes, selection="best-on-test")

    return made_once(factory, "trained-run", make)
