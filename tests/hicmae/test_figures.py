"""Names in pictures are no formulas, and what the font lacks is one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from finetune.reporting.document import make_axes, save
from hicmae import figures


def test_dollar_signs_in_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    figure, axes = make_axes(4, 3, "run $x_{$")
    axes.plot([1, 1000], [0, 1], label="class $^$")
    axes.set_xscale("log")
    axes.set_yticks([0, 1], ["$a_{$", "b"])
    axes.legend()
    save(figure, tmp_path / "a.png")
    assert axes.get_yticklabels()[0].get_parse_math() is False
    assert axes.get_xticklabels()[0].get_parse_math()  # powers of ten
    assert (tmp_path / "a.png").is_file()


def test_letters_that_the_font_lacks_are_said_once_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "_SAID", [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("a", "b"):
            save(make_axes(4, 3, "恐れ")[0], tmp_path / f"{name}.png")
    told = capsys.readouterr().err
    assert "lacks letters (恐 れ)" in told
    assert told.count("\n") == 1
