"""Curves out of a run's metrics.csv: what is read, what is drawn, and what is refused."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from hicmae.__main__ import VERBS, main
from pretrain.plot import draw_curves, plot, read_curves

HEADER = "step,loss,video,audio,learning_rate,update_norm_fusion,parameter_norm_fusion,"
HEADER += "peak_memory_bytes,skipped\n"


def write_run(folder: Path, rows: int, *, skipped: int = 0) -> Path:
    folder.mkdir(parents=True)
    lines = [
        f"{10 * row},{2 / row},{1 / row},{1 / row},1e-3,{'0.5' if row % 2 == 0 else ''},"
        f"{'50' if row % 2 == 0 else ''},{2**30},{skipped}\n"
        for row in range(1, rows + 1)
    ]
    (folder / "metrics.csv").write_text(HEADER + "".join(lines))
    return folder


def test_columns_are_read_with_gaps_and_without_a_row_that_is_being_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 4)
    with (run / "metrics.csv").open("a") as file:
        file.write("50,0.")
    columns = read_curves(run / "metrics.csv")
    assert columns["step"].tolist() == [10, 20, 30, 40]
    assert columns["loss"].tolist() == pytest.approx([2, 1, 2 / 3, 0.5])
    assert np.isnan(columns["update_norm_fusion"]).tolist() == [True, False, True, False]
    assert columns["relative_update_fusion"][1] == pytest.approx(0.01)
    assert columns["peak_memory_gib"].tolist() == [1, 1, 1, 1]


@pytest.mark.slow
def test_a_run_is_drawn_into_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", 5)
    assert main(["pretrain", "plot", str(run)]) == 0
    path = run / "figures" / "curves.png"
    assert capsys.readouterr().out.strip() == str(path)
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]
    picture = cv2.imread(str(path))
    assert picture.shape[1] > 1000
    blue = (abs(picture.astype(int) - (0xB2, 0x72, 0x00)) < 30).all(axis=-1)  # BGR
    assert blue.sum() > 100, "the first curve of a panel is blue"


def test_a_logarithmic_panel_of_zeros_is_drawn_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss,gradient_norm\n1,1,0\n2,1,0\n")
    assert plot(runs=[tmp_path]) == 0
    assert [str(warning.message) for warning in recwarn] == []


def test_several_runs_need_a_name_for_the_picture_and_are_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name / "run", 5) for name in ("a", "b")]
    with pytest.raises(ValueError, match="2 runs: say where the picture goes with --out"):
        plot(runs=runs)
    out = tmp_path / "both.png"
    assert plot(runs=runs, out=out, smooth=2) == 0
    assert out.is_file()
    with pytest.raises(ValueError, match="given twice"):
        plot(runs=[runs[0], runs[0]], out=out)


@pytest.mark.slow
def test_the_example_of_its_help_draws_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tiny", "base"):
        write_run(tmp_path / "runs" / name, 5)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(VERBS["pretrain plot"].example)[1:]) == 0
    assert (tmp_path / "curves.png").is_file()


def test_a_column_that_the_first_run_lacks_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    monkeypatch.setattr(
        Axes, "plot", lambda self, *values, label=None, **style: names.append(label)
    )
    monkeypatch.setattr(Axes, "legend", lambda self, **style: None)
    steps = np.arange(5.0)
    curves = {"a": {"step": steps, "loss": steps}}
    curves["b"] = {"step": steps, "loss": steps, "video": steps}
    draw_curves(tmp_path / "a.png", curves)
    assert names == ["loss", None, "video"]


def test_no_two_of_many_runs_have_a_line_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[object] = []
    plain = Axes.plot

    def noting(axes: Axes, *given: object, **options: object) -> object:
        drawn.append(options["linestyle"])
        return plain(axes, *given, **options)

    monkeypatch.setattr(Axes, "plot", noting)
    steps = np.arange(9.0)
    draw_curves(tmp_path / "a.png", {f"r{n}": {"step": steps, "loss": steps} for n in range(9)})
    assert len(set(drawn)) == len(drawn) == 9


@pytest.mark.parametrize(
    ("features", "shown"), [(["both", "video", "audio"], ["both"]), (["audio"], ["audio alone"])]
)
def test_probes_are_drawn_of_one_modality_alone_too(
    features: list[str], shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the level of chance without what is held against it."""
    drawn = []
    plain = Axes.plot

    def noting(axes: Axes, *given: object, **options: object) -> object:
        drawn.append((options["label"], list(given[1])))
        return plain(axes, *given, **options)

    monkeypatch.setattr(Axes, "plot", noting)
    names = [f"probe_mood_uar_{name}" for name in features]
    file = tmp_path / "metrics.csv"
    file.write_text(f"step,{','.join(names)},probe_mood_chance_uar\n")
    with file.open("a") as lines:
        lines.writelines(f"{n},{',0.6' * len(names)},0.5\n".replace(",,", ",") for n in (1, 2))
    plot(runs=[file], out=tmp_path / "curves.png")
    chance, *probes = drawn
    assert chance == ("chance_uar", [0.5, 0.5])
    assert probes == [(f"uar_{name}", [0.6, 0.6]) for name in shown]


def test_panels_are_only_of_what_there_is(tmp_path: Path) -> None:
    """A run that skipped nothing has no panel of it; one that did has one row more or a panel."""
    heights = []
    for skipped in (0, 3):
        run = write_run(tmp_path / f"run-{skipped}", 3, skipped=skipped)
        columns = read_curves(run / "metrics.csv")
        keep = {name: columns[name] for name in ("step", "loss", "learning_rate", "skipped")}
        draw_curves(tmp_path / "a.png", {"run": keep})
        heights.append(cv2.imread(str(tmp_path / "a.png")).shape[1])
    assert heights[1] == pytest.approx(1.5 * heights[0], rel=0.05), "two panels, then three"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows with a step"),
        ("step,loss\n", "no rows with a step"),
        ("step,loss\n1,2\n2,much\n", r"metrics\.csv line 3: loss = 'much' \(must be a number"),
    ],
)
def test_files_without_curves_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        plot(runs=[tmp_path])
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere/metrics\.csv"):
        plot(runs=[tmp_path / "nowhere"])
