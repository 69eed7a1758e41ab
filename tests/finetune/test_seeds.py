"""Sweeps over seeds: a run each, resumed where they were, summed up and compared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import finetune.fold
from finetune.commands import report
from finetune.fold import train_fold
from finetune.plan import members, parse_seeds, prepare_folder
from finetune.record import read_run, runs_in, unfinished_in
from finetune.reporting.comparison import group_runs
from finetune.reporting.entries import SeedGroup, group_seeds
from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import BENCHMARK, Train, settings, train_tiny


@pytest.fixture(scope="module")
def sweep(
    tmp_path_factory: pytest.TempPathFactory, noisy: Path, tiny_model_config: ModelConfig
) -> Path:
    """Two seeds of both folds."""
    folder = tmp_path_factory.mktemp("sweep")
    return train_tiny(folder, noisy, tiny_model_config, epochs=1, seeds="0,1")


@pytest.mark.slow
def test_a_seed_of_a_sweep_is_the_run_of_that_seed(sweep: Path, noisy: Path, train: Train) -> None:
    assert [folder.name for folder in runs_in(sweep)] == ["seed-0", "seed-1"]
    alone = train(on=noisy, epochs=1, seed=1)
    runs = [read_run(folder) for folder in runs_in(sweep)]
    assert runs[1].predictions == read_run(alone).predictions
    assert runs[0].predictions != runs[1].predictions
    assert runs[0].facts.experiment_digest == runs[1].facts.experiment_digest
    assert runs[0].facts.configuration_digest != runs[1].facts.configuration_digest


def test_the_summary_of_seeds_is_what_numpy_gives(sweep: Path) -> None:
    runs = [read_run(folder) for folder in runs_in(sweep)]
    stored = json.loads((sweep / "seeds.json").read_text())
    assert stored["seeds"] == [0, 1]
    assert stored["selection"] == "last"
    for metric in ("uar", "macro_f1"):
        pooled = [run.scores.pooled[metric] for run in runs]
        by_fold = np.array([[run.scores.folds[fold][metric] for fold in "12"] for run in runs])
        assert stored["over_seeds"][metric] == pytest.approx(
            {"mean": np.mean(pooled), "sd": np.std(pooled, ddof=1)}
        )
        assert stored["over_folds"][metric] == pytest.approx(
            {"mean": by_fold.mean(), "sd": by_fold.mean(axis=0).std(ddof=1)}
        )
    assert stored["over_seeds"]["macro_f1"]["sd"] > 0
    pooled = [run.scores.pooled["uar"] for run in runs]
    low, high = stored["intervals"]["uar"]
    assert low <= np.mean(pooled) <= high
    text = (sweep / "seeds.md").read_text()
    assert "Selection rule: last" in text
    assert f"{np.mean(pooled):.3f} ± {np.std(pooled, ddof=1):.3f}" in text


def test_networks_of_seeds_of_modalities_are_found_below_their_folder(tmp_path: Path) -> None:
    """As an evaluation on another corpus writes them."""
    folder = tmp_path / "video" / "seed-0" / "ensemble"
    (folder / "fold-1").mkdir(parents=True)
    (folder / "benchmark.yaml").touch()
    assert (runs_in(tmp_path), unfinished_in(tmp_path)) == ([tmp_path], [folder])
    (folder / "scores.json").touch()
    assert (runs_in(tmp_path), unfinished_in(tmp_path)) == ([folder], [])


@pytest.mark.slow
def test_seeds_that_are_added_are_summed_up_with_those_of_the_same_settings(train: Train) -> None:
    for options in ({"seeds": "0,1"}, {"seeds": "2"}, {"seeds": "3", "accumulate": 2}):
        out = train(folds="1", epochs=1, **options)
    stored = json.loads((out / "seeds.json").read_text())
    assert (stored["seeds"], stored["runs"]) == ([0, 1, 2], ["seed-0", "seed-1", "seed-2"])
    pooled = [read_run(out / name).scores.pooled["macro_f1"] for name in stored["runs"]]
    assert stored["over_seeds"]["macro_f1"]["mean"] == pytest.approx(np.mean(pooled))
    assert "3 seeds" in (out / "seeds.md").read_text()


@pytest.mark.slow
def test_a_killed_sweep_resumes_at_its_fold_to_identical_results(
    sweep: Path, noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    trained: list[tuple[int, str]] = []

    kills = iter([KeyboardInterrupt])

    def killed_once(plan: Any, fold: Any, **options: Any) -> Any:
        if (plan.config.seed, fold.name) == (1, "2"):
            for kill in kills:
                raise kill
        trained.append((plan.config.seed, fold.name))
        return train_fold(plan, fold, **options)

    monkeypatch.setattr(finetune.fold, "train_fold", killed_once)
    options: dict[str, Any] = {"epochs": 1, "seeds": "0,1"}
    with pytest.raises(KeyboardInterrupt):
        train(on=noisy, **options)
    assert not (tmp_path / "run" / "seeds.json").exists()
    train(on=noisy, resume=True, **options)
    assert trained == [(0, "1"), (0, "2"), (1, "1"), (1, "2")]  # nothing twice
    for name in ("seed-0/predictions.jsonl", "seed-1/predictions.jsonl", "seeds.json"):
        assert (tmp_path / "run" / name).read_text() == (sweep / name).read_text(), name


@pytest.mark.slow
def test_a_report_takes_seeds_together_and_compares_entries_pairwise(
    sweep: Path, noisy: Path, tmp_path: Path, train: Train
) -> None:
    seen = train(
        on=noisy, epochs=1, seeds="0,1", modalities="video", selection="best-on-test", name="seen"
    )
    report(runs=[sweep, seen], out=tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    over, against = text.split("### Over seeds")[1].split("### Each against ")
    rows = [line for line in over.splitlines() if line.startswith("| ")][2:]
    entries = [line.split("|")[1].strip() for line in rows]
    assert entries == ["run (2 seeds)", "seen (2 seeds)"]
    assert rows[0].count("(best-on-test)") == 0
    assert rows[1].count("(best-on-test)") == 6  # four metrics, folds, interval
    (compared,) = [line for line in against.splitlines() if "| all swaps" in line]
    cells = [cell.strip() for cell in compared.strip("|").split("|")]
    mean = {
        name: np.mean([read_run(folder).scores.pooled["uar"] for folder in runs_in(run)])
        for name, run in (("first", sweep), ("second", seen))
    }
    gap = mean["second"] - mean["first"]
    assert gap != 0
    assert cells[2] == f"{gap:+.3f} (best-on-test)"
    assert cells[5] == "all swaps of 4 values of speaker"


@pytest.mark.slow
def test_runs_of_other_samples_are_not_compared(
    sweep: Path, noisy: Path, tmp_path: Path, train: Train
) -> None:
    part = train(on=noisy, epochs=1, folds="1")
    report(runs=[sweep / "seed-0", part], out=tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "did not score the samples of" in text
    assert "all swaps" not in text


@pytest.mark.parametrize("early", [0, 1])
def test_a_seed_of_an_earlier_version_is_of_the_same_experiment(sweep: Path, early: int) -> None:
    runs = [read_run(folder) for folder in runs_in(sweep)]
    assert runs[0].facts.experiment_digest in runs[0].facts.experiment_digests
    for place, run in enumerate(runs):  # before a benchmark's words were left out
        old: dict[str, Any] = {"experiment_digest": "old", "experiment_digests": ()}
        new = {"experiment_digests": (run.facts.experiment_digest, "old")}
        facts = dataclasses.replace(run.facts, **(old if place == early else new))
        runs[place] = dataclasses.replace(run, facts=facts)
    (group,) = group_seeds([(run.name, run) for run in runs])
    assert group.seeds == "0, 1"


def test_seeds_on_another_corpus_are_summed_up_network_by_network(sweep: Path) -> None:
    pairs = []
    for run in (read_run(folder) for folder in runs_in(sweep)):
        for network in ("ensemble", "1 b"):  # each with a digest of its own
            facts = dataclasses.replace(
                run.facts, network=network, experiment_digest=network, experiment_digests=()
            )
            folder = run.folder / {"1 b": "network-1_b"}.get(network, network)
            name = f"{run.name}/{folder.name}"
            pairs.append((name, dataclasses.replace(run, folder=folder, facts=facts)))
    assert [(group.name, group.seeds) for group in group_seeds(pairs)] == [
        ("run/ensemble (2 seeds)", "0, 1"),
        ("run/network-1_b (2 seeds)", "0, 1"),
    ]


def test_the_same_run_twice_is_two_entries(sweep: Path) -> None:
    run = read_run(sweep / "seed-0")
    groups = group_seeds([("a", run), ("b", run)])
    assert [(group.name, len(group.runs)) for group in groups] == [("a", 1), ("b", 1)]


def test_runs_with_another_leading_metric_are_compared_in_that_of_the_first(sweep: Path) -> None:
    first, other = (read_run(folder) for folder in runs_in(sweep))
    led = dataclasses.replace(other, benchmark=dataclasses.replace(BENCHMARK, leading="war"))
    (group,) = group_runs([("first", first), ("other", led)])
    one, two = (SeedGroup(name=name, runs=(run,)) for name, run in group)
    assert two.minus(one).metric == one.minus(two).metric == "uar"


def test_every_run_of_a_sweep_has_its_folder(tmp_path: Path) -> None:
    def folders(*modalities: Any, seeds: list[int], by_seed: bool) -> list[str]:
        found = members(settings(out=tmp_path), list(modalities), seeds, by_seed=by_seed)
        return [one.out.relative_to(tmp_path).as_posix() for one in found]

    assert folders("audio", seeds=[3], by_seed=False) == ["."]
    assert folders("audio", seeds=[3], by_seed=True) == ["seed-3"]
    assert folders("audio", "video", seeds=[0], by_seed=False) == ["audio", "video"]
    assert folders("audio", "video", seeds=[0, 1], by_seed=True) == [
        "audio/seed-0",
        "audio/seed-1",
        "video/seed-0",
        "video/seed-1",
    ]
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match="holds a run; name another folder"):
        folders("audio", seeds=[0], by_seed=True)


def test_a_sweep_is_not_resumed_as_one_run_among_its_own(tmp_path: Path) -> None:
    for name in ("video/seed-0", "video/seed-1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").touch()
    for out in (tmp_path, tmp_path / "video"):
        with pytest.raises(ValueError, match=r"several seeds or modalities .*seed-0.*--seeds and"):
            prepare_folder(out, [], ["digest"], resume=True, overwrite=False)
    prepare_folder(tmp_path / "video" / "seed-0", [], ["digest"], resume=True, overwrite=False)


def test_seeds_are_whole_numbers_once_each() -> None:
    assert parse_seeds(None, 4) == [4]
    assert parse_seeds(" 2,0", 4) == [2, 0]
    for wrong in ("", "a", "1,1", "1,01", "-1", "1.5", "0,"):
        with pytest.raises(ValueError, match="whole numbers from 0 separated by commas"):
            parse_seeds(wrong, 0)


@pytest.mark.parametrize("options", [{"seed": -1}, {"seeds": "0,4294967296"}])
def test_a_seed_that_no_generator_takes_is_refused_before_a_run_is_deleted(
    train: Train, tmp_path: Path, options: dict[str, Any]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("an earlier run")
    with pytest.raises(ValueError, match=r"seed = \S+ \(must lie in 0\.\.4294967295\)"):
        train(overwrite=True, **options)
    assert (tmp_path / "run" / "config.yaml").is_file()
