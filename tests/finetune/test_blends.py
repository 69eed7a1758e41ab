"""Heads that name blends: thresholds from training to prediction, and what blends teach."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from finetune.benchmark import load_benchmark
from finetune.commands import evaluate
from finetune.heads import Head
from finetune.predictions import make_prediction
from finetune.record import Run, read_run
from finetune.reporting.resampling import make_sums
from finetune.reporting.run_report import head_sections
from finetune.scores import score, score_run, undefined
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.heads import blend_metrics, choose_thresholds, named_blends
from hicmae.prediction.messages import WindowConfig
from hicmae.prediction.model import load
from tests.support.blend_fixtures import (
    BLENDS,
    COLUMNS,
    EMOTIONS,
    ONE_LABEL,
    every_blend,
    write_blend_shards,
)
from tests.support.finetune_fixtures import Train, all_notes
from tests.support.media_files import counting_frames, write_recording
from tests.support.shared import shards_once

(HEAD,) = BLENDS.heads
LEARNING: dict[str, Any] = {
    "modalities": "video",
    "folds": "1",
    "epochs": 10,
    "recipe": {"batch_size": 8},
}


@pytest.fixture(scope="module")
def blends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of blends."""
    return shards_once(tmp_path_factory, "blends", write_blend_shards)


@pytest.mark.slow
@pytest.mark.usefixtures("one_decoding_process")
def test_blends_are_learned_better_than_from_one_label_and_thresholds_go_all_the_way(
    train: Train, blends: Path, tmp_path: Path
) -> None:
    folder = train(BLENDS, on=blends, report=True, **LEARNING)
    run = read_run(folder)
    pooled = run.scores.pooled
    alone = read_run(train(ONE_LABEL, on=blends, name="one", **LEARNING))
    # The thresholds of one label are the best there are on what is tested: nobody is as well off.
    true = np.array([item.heads["emotions"].true for item in run.predictions])
    order = {item.key: item.probabilities for item in alone.predictions}
    shares = np.array([order[item.key] for item in run.predictions])
    best = choose_thresholds(true, shares, unblended=3)
    of_one = blend_metrics(true, named_blends(shares, best, unblended=3))
    assert pooled["emotions.salience"] > of_one["salience"] + 0.1

    # What was chosen on the training side is in the checkpoint, the notes and the report.
    labels = load_checkpoint(folder / "fold-1").labels()
    assert labels is not None
    (head,) = labels.heads
    assert len(head.thresholds) == 2
    assert head.unblended == "neutral"
    assert {item.heads["emotions"].thresholds for item in run.predictions} == {head.thresholds}
    assert f"named from a share of {head.thresholds[0]:.3f}" in all_notes(run)
    said = np.array([item.heads["emotions"].predicted for item in run.predictions])
    by_hand = blend_metrics(true, head.blends(said))
    assert pooled["emotions.presence"] == pytest.approx(by_hand["presence"])
    assert pooled["emotions.salience"] == pytest.approx(by_hand["salience"])
    assert pooled["both"] == pytest.approx(sum(by_hand.values()) / 2)
    report = (folder / "report.md").read_text()
    assert f"| 1 | {head.thresholds[0]:.2f} | {head.thresholds[1]:.2f} |" in report
    assert "| anger+joy | 27 |" in report
    evaluate(source=folder, out=tmp_path / "again", device="cpu", precision="32-true", workers=0)
    again = read_run(tmp_path / "again").scores.pooled
    assert again == pytest.approx(pooled, abs=1e-5)

    clip = write_recording(tmp_path / "clip.mp4", counting_frames(30), np.arange(30) / 25)
    with load(folder / "fold-1", device="cpu", precision="32-true") as predictor:
        prediction = predictor.predict(clip, config=WindowConfig(faces="none", hop=0.5))
    row = prediction.timeline.iloc[0]
    values = row[[f"emotions.{name}" for name in EMOTIONS]].to_numpy(float)
    assert row["emotions.prediction"] == head.answer(values)


def test_salience_without_a_blend_is_undefined_for_that_reason() -> None:
    made = [
        make_prediction(
            BLENDS,
            key=f"k{number}",
            fold="1",
            speaker=f"s{number}",
            true={"emotions": tuple(np.eye(4)[number])},
            views=np.full((1, 4), 0.25),
        )
        for number in range(4)
    ]
    pooled, _ = undefined(score_run(BLENDS, made))
    assert pooled.startswith("Pooled: both, emotions salience accuracy undefined")
    assert "nobody shows a blend" in pooled


def test_scores_by_sums_are_those_of_samples_and_each_fold_has_its_thresholds() -> None:
    draws = np.random.default_rng(0)
    limits = {"1": (0.1, 0.1), "2": (0.4, 0.3)}
    made = [
        make_prediction(
            BLENDS,
            key=f"k{number}",
            fold=str(1 + number % 2),
            speaker=f"s{number % 5}",
            true={"emotions": tuple(every_blend()[number % 13].tolist())},
            views=draws.dirichlet(10 * every_blend()[number % 13] + 0.2)[None],
            thresholds={"emotions": limits[str(1 + number % 2)]},
        )
        for number in range(60)
    ]
    found = score(BLENDS, made)
    sums = make_sums(BLENDS, [made])
    by_sums = sums.metrics(sums.total(0, np.ones((1, sums.num_clusters))))
    assert by_sums.keys() == found.keys() | {"emotions.cosine", "emotions.kl"}
    for name, value in found.items():
        assert by_sums[name][0] == pytest.approx(value, abs=1e-6), name
    # By hand: both folds at their own thresholds.
    right = [
        ((truth > 0) == (HEAD.labels(limits[item.fold]).blends(shares[None])[0] > 0)).all()
        for item in made
        for truth, shares in [
            [np.array(part) for part in (item.heads["emotions"].true, item.outputs)]
        ]
    ]
    assert 0.2 < np.mean(right) < 0.9
    assert found["emotions.presence"] == pytest.approx(np.mean(right))
    facts: Any = {"facts": SimpleNamespace(mark=str, rule="last"), "folds": (), "scores": None}
    run = Run(folder=Path(), benchmark=BLENDS, predictions=tuple(made), disagreements=(), **facts)
    *_, of_folds, of_blends = head_sections(run, Path(), "")[0].parts
    assert of_folds.rows == [["1", "0.10", "0.10"], ["2", "0.40", "0.30"]]  # type: ignore[union-attr]
    rows = {row[0]: row[1:] for row in of_blends.rows}  # type: ignore[union-attr]
    shown = ["+".join(np.array(EMOTIONS)[np.array(i.heads["emotions"].true) > 0]) for i in made]
    assert sorted(rows, key=lambda name: (name.count("+"), name)) == list(rows)
    for name, (count, presence, salience) in rows.items():
        own = [yes for yes, what in zip(right, shown, strict=True) if what == name]
        assert (int(count), float(presence)) == (len(own), pytest.approx(np.mean(own), abs=6e-4))
        assert (salience == "n/a") == ("+" not in name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unblended": "calm"}, "unblended = calm .*one of the classes"),
        ({"metrics": ("kl",)}, "unblended = neutral .*presence or salience"),
        ({"columns": (), "votes": COLUMNS}, "not of votes"),
    ],
)
def test_what_blends_lack_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(HEAD, **changes)


def test_shares_without_blends_keep_their_metrics() -> None:
    plain = Head(name="e", kind="distribution", classes=EMOTIONS, columns=COLUMNS)
    assert plain.metrics == plain.scored == ("intersection", "cosine", "kl")
    assert plain.labels().thresholds == ()
    assert load_benchmark("blemore").ranking == "blend_accuracy"
