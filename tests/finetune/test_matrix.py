"""Scores over corpora: which cell is what, and what may share one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.benchmark import Benchmark
from finetune.commands import evaluate, matrix, report
from finetune.heads import Head
from finetune.predictions import make_prediction
from finetune.record import read_run
from finetune.scores import score_run
from finetune.testing.matrix import make_cells, write_matrix
from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import (
    BENCHMARK,
    run_tiny,
    save_benchmark,
    write_labelled_shards,
)
from tests.support.testing_fixtures import CPU, trained_run

OTHER = dataclasses.replace(BENCHMARK, name="whistles", classes=("high", "low"))


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_config: ModelConfig
) -> dict[str, Path]:
    """Two corpora, a run on each, and each run on the other's corpus."""
    home = tmp_path_factory.mktemp("matrix")
    tones = trained_run(tmp_path_factory, tiny_model_config)
    renamed = {n: {"key": f"whistles/{n:03d}"} for n in range(24)}  # no recording is in both
    whistles = write_labelled_shards(home / "shards", changes=renamed)
    shards = {"tones": tones / "shards", "whistles": whistles}
    found = {"tones": tones / "run"}
    found["whistles"] = run_tiny(home, shards["whistles"], tiny_model_config, OTHER, epochs=1)
    for trained, tested, benchmark in (
        ("tones", "whistles", OTHER),
        ("whistles", "tones", BENCHMARK),
    ):
        found[f"{trained}-{tested}"] = home / f"{trained}-{tested}"
        evaluate(
            source=found[trained],
            out=found[f"{trained}-{tested}"],
            shards=shards[tested],
            benchmark=save_benchmark(home, benchmark),
            **CPU,
        )
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_rows_are_trained_on_and_columns_tested_on(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "matrix.md"
    matrix(runs=list(folders.values()), out=out)
    cells = {
        (cell["trained_on"], cell["tested_on"]): cell
        for cell in json.loads(out.with_suffix(".json").read_text())
    }
    assert set(cells) == {
        ("tones, best-on-test", "tones"),
        ("tones, best-on-test", "whistles"),
        ("whistles, last", "whistles"),
        ("whistles, last", "tones"),
    }
    within = cells["tones, best-on-test", "tones"]
    assert within["within"]
    run = read_run(folders["tones"])
    assert within["mean"] == pytest.approx(run.scores.mean["uar"])
    assert within["sd"] == pytest.approx(run.scores.sd["uar"], abs=1e-12)
    across = cells["whistles, last", "tones"]
    assert not across["within"]
    networks = [
        read_run(folders["whistles-tones"] / f"network-{fold}").scores.pooled["uar"]
        for fold in (1, 2)
    ]
    assert across["networks"] == pytest.approx(networks)
    assert across["mean"] == pytest.approx(np.mean(networks))
    text = out.read_text()
    row = next(line for line in text.splitlines() if line.startswith("| tones, best-on-test |"))
    assert row.count("(best-on-test)") == 2
    assert "**" in row.split("|")[2]
    assert "**" not in row.split("|")[3]
    assert (tmp_path / "figures" / "matrix.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("changes", "edited"),
    [
        ({"num_segments": 3}, {}),
        ({"crops": ("mirrored",)}, {}),
        ({"shards_digest": "others"}, {}),
        ({}, {"label": "sex"}),
        ({}, {"classes": ("low", "middle")}),
        ({}, {"metrics": ("macro_f1",), "leading": "macro_f1"}),  # a file changed between the runs
    ],
)
def test_runs_that_were_tested_in_different_ways_share_no_cell(
    trained: Path, changes: dict[str, Any], edited: dict[str, Any]
) -> None:
    run = read_run(trained / "run")
    benchmark = dataclasses.replace(run.benchmark, **edited)
    facts = dataclasses.replace(run.facts, **changes)
    other = dataclasses.replace(run, folder=trained / "o", facts=facts, benchmark=benchmark)
    with pytest.raises(ValueError, match="tested in different ways") as caught:
        make_cells([run, other])
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_no_network_counts_twice_in_a_cell(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that is given twice, that was copied, or beside an evaluation of all its networks or
    of one, wherever that was started.
    """
    run, other = read_run(trained / "run"), read_run(trained / "run")
    monkeypatch.chdir(trained)
    evaluate(source=Path("run"), out=tmp_path / "all", **CPU)
    evaluate(source=Path("run/fold-1"), out=tmp_path / "one", **CPU)
    monkeypatch.chdir(tmp_path)
    copy = dataclasses.replace(other, folder=tmp_path / "copy")
    for twice in (other, copy, read_run(tmp_path / "all"), read_run(tmp_path / "one")):
        with pytest.raises(ValueError, match=r"the same network \(fold 1\), which would count"):
            make_cells([run, twice])
    one, two = (dataclasses.replace(run, folds=(fold,)) for fold in run.folds)
    make_cells([one, two])  # of other folds
    folds = [dataclasses.replace(fold, configuration_digest="of seed 1") for fold in other.folds]
    another = dataclasses.replace(other, folder=tmp_path / "seed-1", folds=tuple(folds))
    (cell,) = make_cells([run, another])
    assert len(cell.values) == 2 * len(run.scores.folds)


def test_an_average_without_its_networks_is_no_cell(trained: Path) -> None:
    run = read_run(trained / "run")
    average = dataclasses.replace(run, facts=dataclasses.replace(run.facts, network="ensemble"))
    with pytest.raises(ValueError, match=r"run: is the average of networks of tones, .* beside it"):
        make_cells([average])


@pytest.mark.parametrize(
    ("leads", "chance"),
    [("emotion.uar", "0.500"), ("values.ccc", "0.000"), ("emotion.macro_f1", "n/a"), ("m", "n/a")],
)
def test_chance_of_several_heads_is_that_of_the_one_that_leads(
    trained: Path, tmp_path: Path, leads: str, chance: str
) -> None:
    heads = (
        Head(name="emotion", kind="classification", label="emotion", classes=("low", "high")),
        Head(name="values", kind="regression", targets=("valence",)),
    )
    mean = {"m": {"emotion.uar": 0.5, "values.ccc": 0.5}}
    joint = Benchmark(name="both", task="joint", heads=heads, combinations=mean, leading=leads)
    made = [
        make_prediction(
            joint,
            key=f"k{number}",
            fold="1",
            speaker=f"s{number}",
            true={"emotion": "low", "values": (float(number),)},
            views=np.array([[0.9, 0.1, number]]),
        )
        for number in range(4)
    ]
    run = dataclasses.replace(
        read_run(trained / "run"),
        benchmark=joint,
        predictions=tuple(made),
        scores=score_run(joint, made),
    )
    write_matrix([run], tmp_path / "matrix.md")
    text = (tmp_path / "matrix.md").read_text()
    assert f"| emotion (low, high); values (valence) | {chance} |" in text


def test_a_page_is_not_written_where_its_companion_or_another_report_goes(
    trained: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained / "run", tmp_path / "run")
    for name in ("report.md", "report"):
        with pytest.raises(ValueError, match="is a run's own report"):
            report(runs=[run], out=run / name)
    with pytest.raises(ValueError, match=r"out.html: .* name it .*out\.md"):
        report(runs=[run], out=tmp_path / "out.html")
    with pytest.raises(ValueError, match=r"out.json: .* name it .*out\.md"):
        matrix(runs=[run], out=tmp_path / "out.json")
    shutil.rmtree(run / "figures", ignore_errors=True)
    (run / "report.md").unlink(missing_ok=True)
    (run / "report.md").mkdir()
    with pytest.raises(IsADirectoryError, match=r"run/report\.md"):
        report(runs=[run], out=tmp_path / "out.md")
    assert not (run / "figures").exists()  # nothing was drawn in vain
