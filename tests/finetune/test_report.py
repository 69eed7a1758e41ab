"""Reports: everything computed again from predictions, several runs in one table."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from finetune.benchmark import Benchmark, Published
from finetune.commands import report
from finetune.heads import Head
from finetune.record import Run, read_run
from finetune.reporting.comparison import _cautions, group_runs, name_runs, paired_parts
from finetune.reporting.document import Section, Table
from finetune.reporting.entries import SeedGroup, group_seeds, label_curve_parts, label_curves
from finetune.reporting.resampling import compare
from finetune.scores import score_run
from hicmae.config import load_yaml, save_yaml
from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import (
    BENCHMARK,
    VALUES,
    Train,
    run_tiny,
    write_labelled_shards,
)

PUBLISHED = dataclasses.replace(
    BENCHMARK,
    published=(
        Published(method="Somebody", scores={"uar": 0.123}, source="their paper", note="no folds"),
    ),
    licence="for research",
)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_config: ModelConfig
) -> dict[str, Path]:
    """A run with both modalities, one that hears, and one of real values."""
    folder = tmp_path_factory.mktemp("report runs")  # a space, for the links
    shards = write_labelled_shards(folder / "shards")

    def run(name: str, benchmark: Benchmark, **options: str) -> Path:
        return run_tiny(
            folder, shards, tiny_model_config, benchmark, out=folder / name, epochs=1, **options
        )

    return {
        "both": run("both", PUBLISHED),
        "heard": run("heard", PUBLISHED, modalities="audio"),
        "values": run("values", VALUES),
    }


def table_rows(text: str) -> dict[str, list[str]]:
    """Cells of every table row by its first cell; of equal ones the first row."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells] for cells in reversed(lines)}


def tables(text: str) -> list[list[list[str]]]:
    """Every table: its rows of cells, the heads first and the rule left out."""
    found: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("|"):
            if not before.startswith("|"):
                found.append([])
            if not line.startswith("| :-"):
                found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        before = line
    return found


@pytest.mark.slow
def test_runs_stand_in_one_table_a_benchmark_with_what_their_predictions_give(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "report.md"
    report(runs=list(runs.values()), out=out)
    text = out.read_text()
    summary, details = text.split("## tones")
    every, rows = table_rows(summary), table_rows(details)
    both = "audio-video"
    for name, modalities in (("both", both), ("heard", "audio"), ("values", both)):
        scores = read_run(runs[name]).scores
        leading = "ccc" if name == "values" else "uar"
        pooled = f"{scores.pooled[leading]:.3f}"
        spread = f"{scores.mean[leading]:.3f} ± {scores.sd[leading]:.3f}"
        assert rows[name][1:8] == ["scratch", modalities, "last", "2", "24", "0", pooled]
        low, high = read_run(runs[name]).intervals.values[leading]
        assert rows[name][8:10] == [f"{low:.3f} to {high:.3f}", spread]
        assert every[name][3:9] == ["scratch", modalities, "last", "2", "24", leading.upper()]
        assert every[name][9:11] == [pooled, spread]
    assert "no epoch was chosen by a score" in text
    shown = capsys.readouterr().out
    assert "heard" in shown
    assert str(out) in shown


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_every_link_of_a_report_leads_to_something(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "report.md"
    report(runs=list(runs.values()), out=out)
    for page in (out, runs["both"] / "report.md", runs["values"] / "report.md"):
        links = re.findall(r"\]\(([^)]+)\)", page.read_text())
        assert len(links) >= 2
        for link in links:
            target = page.parent / unquote(link)
            assert target.is_file(), link
            if target.suffix == ".png":
                with Image.open(target) as picture:
                    assert min(picture.size) > 200


def test_a_changed_prediction_changes_the_report_and_is_said(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    path = runs["heard"] / "predictions.jsonl"
    kept = path.read_text()
    lines = [json.loads(line) for line in kept.splitlines()]
    for line in lines:
        # None is right, whatever the run answered: one that learned nothing says one class for all.
        line["prediction"] = "high" if line["label"] == "low" else "low"
    try:
        path.write_text("\n".join(map(json.dumps, lines)))
        report(runs=[runs["heard"]], out=tmp_path / "report.md")
        text = (tmp_path / "report.md").read_text()
        assert table_rows(text)["**pooled**"][2] == "0.000"
        assert "scores.json says uar" in text
    finally:
        path.write_text(kept)
        report(runs=[runs["heard"]], out=tmp_path / "report.md")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"r/a": [""], "r/sweep": ["audio", "video"]}, ["a", "sweep/audio", "sweep/video"]),
        ({"r/sweep": ["audio/seed-0", "video"]}, ["audio/seed-0", "video"]),
        ({"r/one": ["audio"], "r/two": ["audio"]}, ["one/audio", "two/audio"]),
        ({"r/sweep/audio": [""], "s/audio": [""]}, ["sweep/audio", "s/audio"]),
    ],
)
def test_names_of_runs_tell_in_which_folder_they_lie(
    given: dict[str, list[str]], names: list[str]
) -> None:
    places = [(Path(top), Path(top, name)) for top, each in given.items() for name in each]
    runs: Any = [SimpleNamespace(folder=folder) for _, folder in places]
    tops = [top for top, _ in places]
    assert [name for name, _ in name_runs(runs, tops)] == names
    with pytest.raises(ValueError, match=f"{runs[0].folder}: given twice"):
        name_runs([*runs, runs[0]], [*tops, runs[0].folder])


def test_a_run_of_a_sweep_that_is_not_finished_is_said_to_be_left_out(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("done", "begun"):
        shutil.copytree(runs["heard"], tmp_path / "sweep" / name)
    (tmp_path / "sweep" / "begun" / "scores.json").unlink()
    report(runs=[tmp_path / "sweep"], out=tmp_path / "report.md", html=False)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("note: ")
    assert "begun is not finished and left out" in said


@pytest.mark.slow
def test_published_and_measured_numbers_share_no_column(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    own = (runs["both"] / "report.md").read_text()
    report(runs=[runs["both"], runs["heard"]], out=tmp_path / "report.md")
    several = (tmp_path / "report.md").read_text()
    report(runs=[runs["both"], runs["heard"]], out=tmp_path / "other.md", html=False)
    other = (tmp_path / "other.md").read_text()
    drawn = [{*re.findall(r"\((figures/[^)]+)", text)} for text in (several, other)]
    assert drawn[0] - drawn[1] == drawn[0] != set()
    for text in (own, several):
        columns = [column for table in tables(text) for column in zip(*table, strict=True)]
        published = [column for column in columns if "0.123" in column]
        assert published
        for column in published:
            assert "published" in column[0]
            assert {cell for cell in column[1:] if cell} == {"0.123"}
        measured = [column for column in columns if "selection last" in column[0]]
        assert len(measured) > 10
        assert not any("0.123" in column for column in measured)
    assert "published: Somebody" in tables(own)[0][0]
    assert table_rows(own.split("## Published")[1])["Somebody"][2:4] == ["0.123", "their paper"]
    assert "Licence: for research" in own
    assert "Selection rule: last" in own
    assert "Seed 0" in own


def test_a_report_of_one_run_is_that_run_in_full_and_html_may_be_left_out(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    report(runs=[runs["values"]], out=tmp_path / "one.md", html=False)
    text = (tmp_path / "one.md").read_text()
    assert not (tmp_path / "one.html").exists()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == [
        "Measured",
        "Predicted against true",
        "Error by range",
        "Scores by speaker",
        "Scores by group",
        "Features before and after",
        "Layer weights",
        "Largest errors",
        "What was run",
        "Folds",
        "Configuration",
    ]
    own = (runs["values"] / "report.md").read_text()
    assert re.sub(r"\]\([^)]*\)", "", own) == re.sub(r"\]\([^)]*\)", "", text)


@pytest.mark.slow
def test_the_html_says_what_the_markdown_says_and_needs_nothing_else(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    report(runs=[runs["both"], runs["values"]], out=tmp_path / "report.md")
    text, page = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    cells = [cell for table in tables(text) for row in table for cell in row]
    found = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", page)
    assert [re.sub(r"<[^>]*>", "", cell) for cell in found] == [cell.strip("*") for cell in cells]
    sources = re.findall(r'<img [^>]*src="([^"]*)"', page)
    assert len(sources) == text.count("![") >= 12
    assert all(
        source.startswith(("data:image/png;base64,", "data:image/jpeg")) for source in sources
    )
    assert not re.search(r"<(script|link|iframe)|url\(|@import|src=\"(?!data:)", page)


@pytest.mark.slow
def test_whoever_reads_an_interval_of_few_speakers_reads_that_it_is_rough(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below the tables of a terminal too, which have no text beside them."""
    caution = read_run(runs["both"]).intervals.caution
    assert "only 4 values of speaker" in caution
    report(runs=[runs["both"]], out=tmp_path / "one.md")
    assert caution in " ".join(capsys.readouterr().out.split())
    report(runs=[runs["both"], runs["heard"]], out=tmp_path / "two.md")
    assert " ".join(capsys.readouterr().out.split()).count(caution) == 1
    many = dataclasses.replace(read_run(runs["both"]).intervals, num_clusters=10)
    assert not many.caution


def test_what_other_commands_left_in_a_run_folder_is_a_section(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(runs["both"], folder)
    (folder / "sections" / "pictures").mkdir(parents=True)
    shutil.copy(folder / "figures" / "recall.png", folder / "sections" / "pictures" / "a b.png")
    (folder / "sections" / "modalities.md").write_text(
        "# What each modality adds\n\nMuch.\n\n## By class\n\n![a](pictures/a%20b.png)\n\n"
        "```\n# no heading\n```\n"
    )
    report(runs=[folder], out=tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "\n## What each modality adds\n\nMuch.\n\n### By class\n" in text
    assert "![a](copy/sections/pictures/a%20b.png)" in text
    assert "\n# no heading\n" in text
    page = (tmp_path / "report.html").read_text()
    assert "What each modality adds</h2>" in page
    assert "no picture at" not in page


@pytest.mark.slow
def test_names_in_sentences_and_in_the_list_of_contents_show_as_they_are(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run, title = tmp_path / "a_*b*", "Two *tones* <of> [old](x)"
    shutil.copytree(runs["values"], run)
    about = load_yaml(run / "benchmark.yaml")
    save_yaml(run / "benchmark.yaml", about | {"title": title, "speaker": "who_*s*"})
    report(runs=[run], out=tmp_path / "one.md")
    page = (tmp_path / "one.html").read_text().replace("&lt;", "<").replace("&gt;", ">")
    assert f"<strong>values</strong> ({title})" in page
    assert page.count("Scores by who_*s*</a>") == 1
    (tmp_path / "two").mkdir()
    report(runs=[run, runs["both"]], out=tmp_path / "two" / "two.md")
    page = (tmp_path / "two" / "two.html").read_text().replace("&lt;", "<").replace("&gt;", ">")
    assert f"<p>{title}</p>" in page


@pytest.mark.slow
def test_damaged_predictions_and_features_are_one_line(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(runs["both"], folder)
    features = folder / "fold-1" / "features.npz"
    for damaged in (features.read_bytes()[:200], b"damaged", b""):
        features.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"features\.npz: damaged .*delete it") as caught:
            report(runs=[folder], out=tmp_path / "report.md")
        assert "\n" not in str(caught.value)
        assert "pickle" not in str(caught.value), "nobody is told to load what may run anything"
    features.unlink()
    report(runs=[folder], out=tmp_path / "report.md")
    predictions = folder / "predictions.jsonl"
    predictions.write_text(predictions.read_text()[:-40])
    with pytest.raises(ValueError, match=r"predictions\.jsonl line 24: no prediction") as caught:
        report(runs=[folder], out=tmp_path / "report.md")
    assert "\n" not in str(caught.value)
    predictions.unlink()
    with pytest.raises(ValueError, match=r"no finished fine-tuning run \(no predictions\.jsonl\)"):
        report(runs=[folder], out=tmp_path / "report.md")


@pytest.mark.slow
def test_what_cannot_be_compared_is_refused_or_said(
    runs: dict[str, Path], tmp_path: Path, train: Train
) -> None:
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        report(runs=[tmp_path / "nothing"], out=tmp_path / "report.md")
    for name, remedy in {".": "--resume", "checkpoints": "pretrain plot"}.items():
        (tmp_path / "unfinished" / name).mkdir(parents=True)
        with pytest.raises(ValueError, match=f"no finished fine-tuning run.*{remedy}"):
            report(runs=[tmp_path / "unfinished"], out=tmp_path / "report.md")
    with pytest.raises(ValueError, match=f"one fold of a run, which may be {runs['both']}$"):
        report(runs=[runs["both"] / "fold-1"], out=tmp_path / "report.md")
    with pytest.raises(ValueError, match="given twice"):
        report(runs=[runs["both"], runs["both"]], out=tmp_path / "report.md")
    with pytest.raises(ValueError, match="is a run's own report"):
        report(runs=[runs["both"]], out=runs["both"] / "report.md")
    part = train(PUBLISHED, once=True)
    report(runs=[runs["both"], part], out=tmp_path / "report.md")
    assert "did not test the same samples" in (tmp_path / "report.md").read_text()
    swapped = dataclasses.replace(PUBLISHED, classes=("high", "low"))
    other = train(swapped, once=True, name="other")
    with pytest.raises(ValueError, match="has other classes than in"):
        report(runs=[runs["both"], other], out=tmp_path / "report.md")


@pytest.mark.slow
def test_a_folder_of_runs_stands_for_all_of_them(runs: dict[str, Path], tmp_path: Path) -> None:
    for group in ("one", "two"):
        (tmp_path / group).mkdir()
        shutil.copytree(runs["both"], tmp_path / group / "audio-video")
    report(runs=[tmp_path / "one", tmp_path / "two"], out=tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "#### one/audio-video" in text
    assert "#### two/audio-video" in text


@pytest.mark.slow
def test_several_processes_draw_and_refuse_what_one_does(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    written = []
    for workers in (1, 2):
        place = tmp_path / str(workers)
        for name in ("both", "values"):
            shutil.copytree(runs[name], place / name)
        report(runs=[place / "both", place / "values"], out=place / "all.md", workers=workers)
        files = [path.relative_to(place) for path in place.rglob("*") if path.is_file()]
        texts = {path: (place / path).read_text() for path in files if path.suffix == ".md"}
        written.append((sorted(files), texts))
    assert len(written[0][1]) >= 3
    assert written[0] == written[1]

    for features in (tmp_path / "2" / "both").rglob("features*"):
        features.write_bytes(b"damaged")
    said = []
    for workers in (1, 2):
        with pytest.raises(ValueError, match="features") as caught:
            report(runs=[tmp_path / "2"], out=tmp_path / "again.md", workers=workers)
        said.append(str(caught.value))
    assert said[0] == said[1]
    with pytest.raises(ValueError, match="workers = 0"):
        report(runs=[tmp_path / "1"], out=tmp_path / "again.md", workers=0)


def entry(run: Run, *, labels: int, wrong: int, checkpoint: str | None = None) -> SeedGroup:
    """The run as if it had been trained on so many labels and had told so many samples falsely."""
    classes = run.benchmark.classes
    predictions = []
    for number, item in enumerate(sorted(run.predictions, key=lambda item: item.key)):
        other = classes[1 - classes.index(str(item.true))]
        told = other if number < wrong else item.true
        predictions.append(dataclasses.replace(item, predicted=told))
    facts = dataclasses.replace(
        run.facts, init="checkpoint" if checkpoint else "scratch", checkpoint=checkpoint
    )
    changed = dataclasses.replace(
        run,
        facts=facts,
        folds=tuple(dataclasses.replace(fold, num_train=labels) for fold in run.folds),
        predictions=tuple(predictions),
        scores=score_run(run.benchmark, predictions),
    )
    return SeedGroup(name=f"{labels}-{checkpoint}", runs=(changed,))


@pytest.mark.usefixtures("drawn")
def test_runs_on_fewer_labels_become_a_curve_with_paired_gains(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run = read_run(runs["both"])
    start = {"checkpoint": "runs/pretrain"}
    entries = [
        entry(run, labels=117, wrong=12),  # near twice as many as 60, and not the nearest
        entry(run, labels=120, wrong=6),
        entry(run, labels=60, wrong=12),
        entry(run, labels=60, wrong=6, **start),
        entry(run, labels=120, wrong=0, **start),
    ]
    picture = tmp_path / "labels.png"
    (section,) = label_curve_parts(entries, picture)
    assert isinstance(section, Section)
    points, gains = (part for part in section.parts if isinstance(part, Table))
    assert [(row[0], row[1], row[4]) for row in points.rows] == [
        ("scratch, audio-video", "60", "0.500"),
        ("scratch, audio-video", "117", "0.500"),
        ("scratch, audio-video", "120", "0.750"),
        ("checkpoint pretrain, audio-video", "60", "0.750"),
        ("checkpoint pretrain, audio-video", "120", "1.000"),
    ]
    # With 60 labels as good as scratch with 120, which halves the labels.
    assert [row[1:4] for row in gains.rows] == [
        ["60", "as many", "+0.250"],
        ["60", "twice as many", "+0.000"],
        ["120", "as many", "+0.250"],
    ]
    assert points.rows[2][5] == "{:.3f} to {:.3f}".format(*entries[1].intervals.values["uar"])
    found = compare(BENCHMARK, *([entries[place].runs[0].units] for place in (4, 1)))
    sure = f"{found.low:.3f} to {found.high:.3f}"
    assert (gains.rows[2][4], found.low < found.high) == (sure, True)
    table = paired_parts([entries[1], entries[4]])[0].parts[0]
    assert isinstance(table, Table)
    row = ["120-runs/pretrain", "last", "+0.250", sure, f"{found.p_value:.3f}", found.method]
    assert (table.columns[2], table.rows) == ("UAR minus 120-None", [row])
    with Image.open(picture) as drawn:
        assert min(drawn.size) > 300
    # One number of labels makes no curve.
    assert label_curve_parts([entries[1], entries[4]], tmp_path / "none.png") == []
    assert not (tmp_path / "none.png").exists()


def test_curves_of_checkpoints_in_folders_of_one_name_are_told_apart(runs: dict[str, Path]) -> None:
    run = read_run(runs["both"])
    starts = ("runs/seed-0/pretrain", "runs/seed-1/pretrain/checkpoints/last", None)
    entries = [
        entry(run, labels=labels, wrong=6, checkpoint=start)
        for start in starts
        for labels in (6, 12)
    ]
    assert [curve.name for curve in label_curves(entries)] == [
        "checkpoint seed-0/pretrain, audio-video",
        "checkpoint seed-1/pretrain, audio-video",
        "scratch, audio-video",
    ]


def test_runs_of_other_recipes_are_no_points_of_one_curve(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    """Nor is a gain over scratch one between recipes; a run that is left out is named."""
    run = read_run(runs["both"])
    settings = load_yaml(run.folder / "config.yaml")
    settings["recipe"] |= {"tuning": "probe", "fraction": 0.5}
    settings["epochs"] = 7
    save_yaml(tmp_path / "config.yaml", settings)
    probe = dataclasses.replace(run, folder=tmp_path)
    kept_out = dataclasses.replace(
        run, facts=dataclasses.replace(run.facts, selection="inner-validation")
    )
    full = [entry(run, labels=labels, wrong=6) for labels in (6, 12)]
    assert not label_curves([full[1], entry(probe, labels=6, wrong=6)])
    assert not label_curves([full[1], entry(kept_out, labels=6, wrong=6)])
    probes = [entry(probe, labels=labels, wrong=0, checkpoint="c") for labels in (6, 12)]
    again = dataclasses.replace(entry(run, labels=12, wrong=0), name="again")
    (section,) = label_curve_parts([*probes, *full, again], tmp_path / "labels.png")
    assert isinstance(section, Section)
    (points,) = (part for part in section.parts if isinstance(part, Table))
    assert [row[0] for row in points.rows[1:3]] == [
        "checkpoint c, audio-video, recipe.tuning probe",
        "scratch, audio-video, recipe.tuning full",
    ]
    assert [row[4] for row in points.rows] == ["1.000", "1.000", "0.750", "0.750"]
    assert "again is not on its curve" in str(section.parts[-1])


def test_a_gain_over_test_chosen_weights_says_so(runs: dict[str, Path], tmp_path: Path) -> None:
    """On whichever side they are."""
    run = read_run(runs["both"])
    chosen, last = (
        dataclasses.replace(run, facts=dataclasses.replace(run.facts, selection=rule))
        for rule in ("best-on-test", "last")
    )
    for scratch, started in ((chosen, last), (last, chosen), (last, last)):
        entries = [entry(scratch, labels=labels, wrong=6) for labels in (6, 12)]
        entries += [entry(started, labels=labels, wrong=0, checkpoint="c") for labels in (6, 12)]
        (section,) = label_curve_parts(entries, tmp_path / "labels.png")
        assert isinstance(section, Section)
        _, gains = (part for part in section.parts if isinstance(part, Table))
        marks = {"(best-on-test)" in cell for row in gains.rows for cell in row[3:]}
        assert marks == {scratch is chosen or started is chosen}


def test_what_keeps_runs_from_being_compared_is_said(runs: dict[str, Path]) -> None:
    """Other seeds of one run each, and samples of which one run scores recordings."""
    run = read_run(runs["both"])
    other: dict[str, Any] = {"experiment_digest": "another", "experiment_digests": ()}
    seed = dataclasses.replace(run.facts, seed=1, **other)
    by_speaker = dataclasses.replace(
        run,
        benchmark=dataclasses.replace(run.benchmark, average_over="speaker"),
        predictions=tuple(
            dataclasses.replace(item, unit=f"{item.speaker} {item.true}")
            for item in run.predictions
        ),
    )
    for second, said in (
        (dataclasses.replace(run, facts=seed), {"One seed each"}),
        (by_speaker, {"One seed each", "did not test the same samples"}),
    ):
        pairs = [("one", run), ("other", second)]
        told = _cautions(pairs, group_seeds(pairs))
        assert len(told) == len(said)
        assert all(any(words in text for text in told) for words in said)


def relabelled(group: SeedGroup) -> SeedGroup:
    """The same predictions of samples of which one has been given another label since."""
    (run,) = group.runs
    first, *others = run.predictions
    other = next(name for name in BENCHMARK.classes if name != first.true)
    predictions = (dataclasses.replace(first, true=other), *others)
    scores = score_run(run.benchmark, predictions)
    changed = dataclasses.replace(run, predictions=predictions, scores=scores)
    return SeedGroup(name="*corrected*", runs=(changed,))


def as_head(group: SeedGroup) -> SeedGroup:
    """The same run as one of several heads."""
    (run,) = group.runs
    head = Head(name="emotion", kind="classification", label="emotion", classes=BENCHMARK.classes)
    predictions = tuple(
        dataclasses.replace(item, true=(), heads={"emotion": item}) for item in run.predictions
    )
    joint = Benchmark(name="joint", task="joint", heads=(head,))
    return SeedGroup(
        name=group.name,
        runs=(dataclasses.replace(run, benchmark=joint, predictions=predictions),),
    )


def test_entries_with_other_labels_of_the_same_samples_are_not_paired(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run = read_run(runs["both"])
    one, few = entry(run, labels=12, wrong=6), entry(run, labels=6, wrong=6)
    started = [relabelled(entry(run, labels=labels, wrong=0, checkpoint="c")) for labels in (6, 12)]
    (curves,) = label_curve_parts([one, few, *started], tmp_path / "labels.png")
    assert isinstance(curves, Section)
    assert sum(isinstance(part, Table) for part in curves.parts) == 1  # points and no gains
    for entries in ([one, relabelled(one)], [as_head(one), as_head(relabelled(one))]):
        (section,) = paired_parts(entries)
        (said,) = section.parts
        assert r"\*corrected\* did not score the samples of 12-None by the same labels" in str(said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": ("uar",)}, "has other metrics than"),
        ({"classes": ("high", "low")}, "has other outputs of head emotion than"),
        ({"name": "feeling"}, "has other heads than"),
        ({}, "has other factors of best than"),
    ],
)
def test_runs_whose_heads_mean_other_things_are_not_compared(
    runs: dict[str, Path], change: dict[str, Any], said: str
) -> None:
    run = read_run(runs["both"])
    head = Head(name="emotion", kind="classification", label="emotion", classes=BENCHMARK.classes)

    def joint(head: Head, factor: float) -> Run:
        best = {"best": {f"{head.name}.uar": factor}}
        made = Benchmark(name="joint", task="joint", heads=(head,), combinations=best)
        return dataclasses.replace(run, benchmark=made)

    first, other = joint(head, 1.0), joint(dataclasses.replace(head, **change), 2.0)
    assert len(group_runs([("a", first), ("b", first)])) == 1
    with pytest.raises(ValueError, match=said):
        group_runs([("a", first), ("b", other)])
