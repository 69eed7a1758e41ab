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


def test_long_names_and_titles_stay_within_the_picture(tmp_path: Path) -> None:
    """What tells names apart stays; without it there was no room left for what is drawn."""
    names = [
        f"Speaker {n} of the House of {'very ' * 12}long names (of that name {n})" for n in "ab"
    ]
    title = " ".join(["a run that is called at some length"] * 4)
    figure, axes = make_axes(7.6, 2.0, title)
    axes.barh([0, 1], [0.5, 1.0])
    axes.set_yticks([0, 1], [*names])
    axes.set_xlabel(title)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(figure, tmp_path / "a.png")
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert shown == [f"Speaker {n} of the Hou … mes (of that name {n})" for n in "ab"]
    assert axes.bbox.width > 0.4 * figure.bbox.width
    for text in (axes.title, axes.xaxis.label):
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
    assert figures._shortened(["x" * 50 + n + "y" * 50 for n in "ab"])[0].count("a") == 1
