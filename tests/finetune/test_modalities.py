"""The modality report: importance is what a swap costs, and it is where the labels are."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.commands import modalities, report
from finetune.predictions import Prediction, make_prediction, read_predictions
from finetune.selection import rule_sentence
from finetune.testing.modalities import (
    importance_figure,
    make_importance,
    over,
    read_spoiled,
    write_modality_page,
)
from finetune.testing.perturbations import Condition, PerturbationConfig, partners
from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import (
    BENCHMARK,
    VALUES,
    Train,
    labels_of,
    run_tiny,
)
from tests.support.testing_fixtures import CPU

MACHINE = CPU | {"batch_size": 9}
FEW = PerturbationConfig(swaps=3, snr_db=(20.0, -20.0), picture_sd=(50.0,), missing_shares=(0.5,))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A copy of the run with its modality report."""
    run = shutil.copytree(trained / "run", tmp_path_factory.mktemp("finished") / "run")
    modalities(source=run, perturb=FEW, **MACHINE)
    return run


@pytest.mark.slow
def test_every_condition_is_of_every_sample_and_unspoiled_ones_are_the_runs(finished: Path) -> None:
    found = read_spoiled(finished / "modalities")
    assert [(item.condition.kind, len(item.scores)) for item in found.conditions] == [
        ("unspoiled", 1),
        ("audio-only", 1),
        ("video-only", 1),
        ("video-frozen", 1),
        ("sound-swapped", 3),
        ("picture-swapped", 3),
        ("sound-noise", 1),
        ("sound-noise", 1),
        ("picture-noise", 1),
        ("missing-frames", 1),
    ]
    lines = [
        json.loads(line)
        for line in (finished / "modalities" / "predictions.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 24 * 14
    run = {item.key: item for item in read_predictions(finished / "predictions.jsonl", BENCHMARK)}
    for line in lines[:12]:
        assert line["condition"] == "unspoiled"
        assert line["probabilities"] == pytest.approx(run[line["key"]].probabilities, abs=1e-5)


def test_a_swap_is_read_both_ways(finished: Path) -> None:
    """Sample i with the sound of j says as much about j's sound with another's picture."""
    by_condition: dict[str, dict[str, list[float]]] = {}
    for text in (finished / "modalities" / "predictions.jsonl").read_text().splitlines():
        line = json.loads(text)
        if line["condition"].endswith("swapped") and line["repeat"] == 1 and line["fold"] == "1":
            by_condition.setdefault(line["condition"], {})[line["key"]] = line["probabilities"]
    sound, picture = by_condition["sound-swapped"], by_condition["picture-swapped"]
    assert sound.keys() == picture.keys()
    keys = list(sound)
    heard = partners(keys, repeat=1, seed=FEW.seed)  # whose sound each has
    said = [picture[keys[other]] for other in heard]
    assert said == [*sound.values()] != [*picture.values()]
    assert all(labels_of(int(key.split("/")[1]))["fold"] == 1 for key in sound)


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_the_page_says_what_is_lost_with_its_rule(finished: Path) -> None:
    page = finished / "modalities" / "modalities.md"
    text = page.read_text()
    # Made again from the file alone, now with its figures.
    page.unlink()
    write_modality_page(finished / "modalities")
    assert page.read_text() == text
    for part in ("sound swapped", "picture noise, sd 50 of 255", "missing frames, 50%", "lost UAR"):
        assert part in text
    for part in ("sound or picture (redundancy)", "both together (synergy), at least"):
        assert part in text
    assert rule_sentence("best-on-test", "default") in text
    assert "(best-on-test)" in text
    for name in ("importance", "levels"):
        assert (finished / "modalities" / "figures" / f"{name}.png").stat().st_size > 5000
    # hicmae report takes it into the run's own report.
    report(runs=[finished], out=finished.parent / "report.md")
    own = (finished / "report.md").read_text()
    assert "## What each modality is worth" in own
    assert "](modalities/figures/importance.png)" in own


def predicted(key: int, said: int) -> Prediction:
    return make_prediction(
        BENCHMARK,
        key=f"k{key}",
        fold="1",
        speaker="s",
        true=BENCHMARK.classes[key % 2],
        views=np.eye(2)[[said]],
    )


def test_importance_is_the_unspoiled_score_minus_the_swapped_one() -> None:
    plain = [predicted(key, key % 2) for key in range(8)]  # all right
    wrong = [predicted(key, 0) for key in range(8)]  # every "high" lost
    half = [predicted(key, 0 if key < 4 else key % 2) for key in range(8)]
    found = make_importance(
        BENCHMARK,
        {
            Condition(kind="unspoiled"): plain,
            Condition(kind="sound-swapped", repeat=0): wrong,
            Condition(kind="sound-swapped", repeat=1): half,
        },
    )
    swap = found.of("sound-swapped")[0]
    assert swap.losses == (0.5, 0.25)
    assert over(swap.recall_losses, "low") == (0, 0)
    assert over(swap.recall_losses, "high") == pytest.approx((0.75, np.std([1, 0.5], ddof=1)))


@pytest.mark.slow
def test_a_modality_without_information_is_worth_nothing(
    tiny_model_config: ModelConfig, tmp_path: Path
) -> None:
    """All sounds are alike: the picture is worth the whole score, the sound nothing."""
    from tests.support.shard_fixtures import make_sample, write_shards

    samples = []
    for number in range(24):
        info, mjpg, wav = make_sample(15 * (number % 2), comment=f"{number}")
        speaker = f"s{(number // 2) % 4}"
        changed = dataclasses.replace(
            info, key=f"{speaker}/{number:03d}", speaker=speaker, labels=labels_of(number)
        )
        _, _, same = make_sample(0)
        digests = dataclasses.replace(info.digests, wav=make_sample(0)[0].digests.wav)
        assert wav is not None
        samples.append((dataclasses.replace(changed, digests=digests), mjpg, same))
    shards = write_shards(tmp_path / "alike", samples, samples_per_shard=10)
    run = run_tiny(tmp_path, shards, tiny_model_config, epochs=4)
    modalities(source=run, perturb=FEW, **MACHINE, out=tmp_path / "out")
    found = read_spoiled(tmp_path / "out")
    assert found.of("unspoiled")[0].scores[0]["uar"] > 0.9
    assert found.of("sound-swapped")[0].losses == (0, 0, 0)
    assert min(found.of("picture-swapped")[0].losses) > 0.25


@pytest.mark.slow
def test_real_values_and_single_modalities_have_a_page_too(trained: Path, train: Train) -> None:
    run = train(VALUES, on=trained / "shards", modalities="video", once=True)
    modalities(source=run, perturb=FEW, **MACHINE)
    text = (run / "modalities" / "modalities.md").read_text()
    assert "lost CCC" in text
    assert "video frozen" in text
    assert "swapped" not in text.split("|")[1]
    assert "redundancy" not in text  # one modality has nothing to share
    assert not (run / "modalities" / "figures" / "importance.png").exists()
    assert (run / "modalities" / "figures" / "levels.png").exists()


@pytest.mark.slow
def test_a_report_stays_until_another_is_whole(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(folder: Path) -> None:
        raise SystemExit(143)

    monkeypatch.setattr("finetune.testing.modalities.write_modality_page", end)
    old = shutil.copytree(finished / "modalities", tmp_path / "old")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for out in ("old", "new"):
        with pytest.raises(SystemExit):
            modalities(source=finished, perturb=FEW, **MACHINE, out=tmp_path / out, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    assert [*tmp_path.iterdir()] == [old]


def test_reports_are_not_overwritten_unasked_nor_other_folders_at_all(
    finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="holds a modality report; pass --overwrite"):
        modalities(source=finished, perturb=FEW, **MACHINE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds no modality report"):
        modalities(source=finished, perturb=FEW, **MACHINE, out=tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").is_file()
    whole = finished / "modalities"
    (whole / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.txt beside a modality report"):
        modalities(source=finished, perturb=FEW, **MACHINE, overwrite=True)
    (whole / "thesis.txt").unlink()
    path = tmp_path / "less"
    path.mkdir()
    (path / "benchmark.yaml").write_text((whole / "benchmark.yaml").read_text())
    lines = (whole / "predictions.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"unspoiled"' not in line]
    (path / "predictions.jsonl").write_text("\n".join(kept))
    with pytest.raises(ValueError, match="holds no unspoiled sample"):
        read_spoiled(path)
    (path / "predictions.jsonl").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="'missing frames, 50%' is not of all samples"):
        read_spoiled(path)


@pytest.mark.usefixtures("drawn")
def test_what_modalities_are_worth_to_many_classes_can_be_read_on_a_page(tmp_path: Path) -> None:
    many = dataclasses.replace(BENCHMARK, classes=tuple(f"anger_disgust_{n}" for n in range(43)))
    made = [
        make_prediction(
            many, key=name, fold="1", speaker="s", true=name, views=np.eye(43)[[number]]
        )
        for number, name in enumerate(many.classes)
    ]
    kinds = ("unspoiled", "sound-swapped", "picture-swapped")
    importance = make_importance(many, {Condition(kind=kind): made for kind in kinds})
    importance_figure(importance, tmp_path / "a.png", title="many")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width < 1100 < picture.height
