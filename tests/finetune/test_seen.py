"""A checkpoint proves that it has not seen the test side, or is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.benchmark import Benchmark
from finetune.commands import evaluate
from finetune.record import read_run
from finetune.reporting.run_report import write_run_report
from hicmae.checkpoints.card import model_card
from hicmae.checkpoints.checkpoint import CONFIG, Seen, digests, load_checkpoint, seen_of, union
from hicmae.checkpoints.networks import average
from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import (
    BENCHMARK,
    Train,
    all_notes,
    save_benchmark,
    split_benchmark,
    train_tiny,
    write_labelled_shards,
)
from tests.support.testing_fixtures import CPU

# The same corpus divided in another way, as MAFW's compound labels divide it.
TWO_WAYS = {
    name: dataclasses.replace(split_benchmark(column=name, shared_speakers=True), dataset="films")
    for name in ("fold", "other_fold")
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards whose two columns of folds differ for a third of each side."""
    changes = {
        number: {"labels": {"other_fold": 1 + (number // 8 + number // 2) % 2}}
        for number in range(24)
    }
    return write_labelled_shards(tmp_path_factory.mktemp("films") / "shards", changes=changes)


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, films: Path, tiny_model_config: ModelConfig
) -> Path:
    """Both folds of one division, trained from scratch."""
    folder = tmp_path_factory.mktemp("first")
    return train_tiny(folder, films, tiny_model_config, TWO_WAYS["fold"], epochs=1)


@pytest.fixture
def again(train: Train, films: Path) -> Train:
    """Fine-tunes a checkpoint on."""

    def run(
        checkpoint: Path, benchmark: Benchmark = TWO_WAYS["fold"], /, on: Path = films, **more: Any
    ) -> Path:
        return train(benchmark, on=on, model=None, checkpoint=checkpoint, epochs=1, **more)

    return run


def test_a_test_sample_that_is_trained_on_under_another_name_is_refused(train: Train) -> None:
    """Of shared speakers nothing else would tell."""
    same = {"changes": {number: {"comment": "the same"} for number in (0, 2)}, "once": True}
    shared = split_benchmark(shared_speakers=True)
    told = r"fold 1: it trains on 1 of its test samples .* \(such as 's0/000' as 's1/002'\); leave"
    for modalities in ("audio-video", "video"):
        with pytest.raises(ValueError, match=told):
            train(shared, modalities=modalities, **same)
    run = read_run(train(shared, allow_seen=True, **same))
    assert "the network may have seen what was tested: fold 1: it trains on" in all_notes(run)


def test_a_fold_goes_on_from_its_own_network_and_no_other_of_the_same_folds(
    first: Path, again: Train
) -> None:
    own = again(first / "fold-1", folds="1", name="own")
    assert "may have seen" not in all_notes(read_run(own))
    with pytest.raises(ValueError, match=r"fold 2: it was trained on 12 of its 12 test") as caught:
        again(first / "fold-1", folds="2")
    assert "(tones, fold 1)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_other_folds_of_the_same_corpus_share_samples_and_are_refused_unless_named(
    first: Path, again: Train
) -> None:
    said = r"fold 1: it was trained on 4 of its 12 test samples \('s\d/\d{3}', .*--allow_seen, "
    with pytest.raises(ValueError, match=said):
        again(first / "fold-1", TWO_WAYS["other_fold"], folds="1", name="no")
    run = read_run(
        again(first / "fold-1", TWO_WAYS["other_fold"], folds="1", allow_seen=True, name="named")
    )
    note = "the checkpoint may have seen what was tested: fold 1: it was trained on 4 of its 12"
    assert note in all_notes(run)
    assert note in write_run_report(run, html=False).read_text()
    card = model_card(load_checkpoint(run.folder / "fold-1"))
    assert note in card.partition("## Scores")[2].partition("## Protocol")[0]
    assert "allow_seen" not in model_card(load_checkpoint(first / "fold-1"))


def test_what_was_seen_is_carried_on_from_training_to_training(first: Path, again: Train) -> None:
    second = again(
        first / "fold-1", TWO_WAYS["other_fold"], folds="2", allow_seen=True, name="second"
    )
    one, both = (
        seen_of(load_checkpoint(run).config, "a checkpoint")
        for run in (first / "fold-1", second / "fold-2")
    )
    assert one is not None
    assert both is not None
    assert both.trainings == ("tones, fold 1", "tones, fold 2")
    assert set(one.samples) < set(both.samples)
    # Of a third training all that either has seen is refused.
    with pytest.raises(ValueError, match=r"fold 2: it was trained on 12 of its 12 test samples"):
        again(second / "fold-2", folds="2", name="third")


@pytest.mark.slow
def test_speakers_are_known_again_though_none_of_their_samples_is(
    tmp_path: Path, train: Train, again: Train
) -> None:
    """The network has seen two samples of each class, of speakers who are all tested later."""
    acted = dataclasses.replace(BENCHMARK, dataset="actors")
    few = train(acted, name="few", once=True)
    seen = seen_of(load_checkpoint(few / "fold-1").config, "few")
    assert seen is not None
    assert len(seen.speakers) == 2
    renamed = {number: {"key": f"new/{number:03d}", "num_samples": 8000} for number in range(24)}
    other = write_labelled_shards(tmp_path / "other", changes=renamed)
    with pytest.raises(ValueError, match=r"fold 2: it was trained on speaker 's1', 's3' of its"):
        again(few / "fold-1", acted, on=other, folds="2", name="no")
    again(few / "fold-1", acted, on=other, folds="1", name="disjoint")
    # Another corpus may name its people alike.
    elsewhere = dataclasses.replace(acted, dataset="strangers")
    again(few / "fold-1", elsewhere, on=other, folds="2", name="elsewhere")


@pytest.mark.slow
def test_what_chose_the_epoch_was_seen_too(films: Path, train: Train) -> None:
    options = {"on": films, "once": True, "validation_share": 0.3}
    for rule, number in (("last", 12), ("inner-validation", 12), ("best-on-test", 24)):
        out = train(TWO_WAYS["fold"], name=rule, selection=rule, **options)
        seen = seen_of(load_checkpoint(out / "fold-1").config, rule)
        assert seen is not None
        assert len(seen.samples) == 2 * number  # by name and lengths, and by dataset and name


@pytest.mark.slow
def test_a_checkpoint_that_does_not_say_is_refused_unless_it_is_of_another_corpus(
    first: Path, tmp_path: Path, again: Train
) -> None:
    silent = tmp_path / "silent"
    silent.mkdir()
    for file in (first / "fold-1" / "checkpoints" / "last").iterdir():
        (silent / file.name).write_bytes(file.read_bytes())
    document = json.loads((silent / CONFIG).read_text())
    document.pop("seen")
    (silent / CONFIG).write_text(json.dumps(document))
    with pytest.raises(ValueError, match="was trained on labels and does not say on whose"):
        again(silent, folds="1")
    strangers = dataclasses.replace(TWO_WAYS["fold"], dataset="strangers")
    again(silent, strangers, folds="1", name="strangers")
    document["seen"] = {"trainings": ["a"], "samples": "%", "speakers": ""}
    (silent / CONFIG).write_text(json.dumps(document))
    with pytest.raises(ValueError, match="damaged configuration \\(section 'seen'"):
        again(silent, folds="1", name="damaged")


def on_another(source: Path, shards: Path, benchmark: Benchmark, out: Path, **options: Any) -> Path:
    """Evaluate on a benchmark that the networks were not trained for, or on other shards."""
    path = save_benchmark(out.parent, benchmark)
    evaluate(source=source, out=out, shards=shards, benchmark=path, **(CPU | options))
    return out


@pytest.mark.slow
def test_a_network_is_not_tested_on_what_the_one_it_started_from_has_seen(
    first: Path, tmp_path: Path, again: Train
) -> None:
    """Fold 2 of the second run is clean of its own training, not of the one before it."""
    second = again(first / "fold-1", folds="2", allow_seen=True, name="after")
    said = r"\(tones, fold 1; tones, fold 2\): fold 2: it was trained on 12 of its 12"
    with pytest.raises(ValueError, match=said) as caught:
        evaluate(source=second, out=tmp_path / "no", **CPU)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "no").exists()
    out = tmp_path / "named"
    evaluate(source=second, out=out, allow_seen=True, **CPU)
    note = "the checkpoint may have seen what was tested: fold 2: it was trained on 12 of its 12"
    assert note in all_notes(read_run(out))
    assert note in (out / "report.md").read_text()


@pytest.mark.slow
def test_another_benchmark_of_seen_samples_is_found_out_by_the_digests(
    first: Path, films: Path, tmp_path: Path
) -> None:
    """What the corpus is called makes no difference: names and lengths are the same."""
    other = dataclasses.replace(TWO_WAYS["fold"], name="cinema", dataset="cinema")
    copied = write_labelled_shards(tmp_path / "copied", changes={0: {"labels": {"seat": 1}}})
    with pytest.raises(ValueError, match=r"fold 1: it was trained on 12 of its 24"):
        on_another(first, copied, other, tmp_path / "no", folds="1")
    renamed = {n: {"key": f"new/{n:03d}"} for n in range(24)}
    with pytest.raises(ValueError, match=r"fold 1: sample 's\d/\d{3}', .* samples it has not"):
        on_another(first, films, TWO_WAYS["other_fold"], tmp_path / "no", folds="1")
    strangers = write_labelled_shards(tmp_path / "strangers", changes=renamed)
    run = read_run(on_another(first, strangers, other, tmp_path / "fine", folds="1"))
    assert "may have seen" not in all_notes(run)


@pytest.mark.slow
def test_the_digests_tell_where_the_shards_of_the_training_are_gone(
    films: Path, tmp_path: Path, train: Train
) -> None:
    """Half of a test side, in shards that nobody could compare with those of the training."""
    gone = shutil.copytree(films, tmp_path / "gone")
    for rule in ("last", "best-on-test"):
        run = train(TWO_WAYS["fold"], on=gone, name=rule, once=True, selection=rule)
        alone = tmp_path / f"alone-{rule}"  # a network without its run
        shutil.copytree(run / "fold-1" / "checkpoints" / "last", alone)
    shutil.rmtree(gone)
    few = {n: {"labels": {"fold": 3}} for n in range(0, 24, 3)}
    rebuilt = write_labelled_shards(tmp_path / "rebuilt", changes=few)
    evaluate(source=tmp_path / "alone-last", out=tmp_path / "a", shards=rebuilt, **CPU)
    assert "may have seen" not in all_notes(read_run(tmp_path / "a"))
    # Whose epoch was chosen on a test side that nobody knows any more.
    with pytest.raises(ValueError, match="fold 1: it was trained on 8 of its 8"):
        evaluate(source=tmp_path / "alone-best-on-test", out=tmp_path / "b", shards=rebuilt, **CPU)
    # Its run knows it.
    evaluate(source=tmp_path / "best-on-test", out=tmp_path / "c", shards=rebuilt, **CPU)


def test_an_average_has_seen_what_any_of_its_networks_has(first: Path) -> None:
    folds = [first / f"fold-{fold}" / "checkpoints" / "last" for fold in (1, 2)]
    parts = [seen_of(load_checkpoint(folder).config, "fold") for folder in folds]
    both = seen_of(average(folds).config, "average")
    assert both is not None
    for part in parts:
        assert part is not None
        assert np.isin(part.samples, both.samples).all()
    assert both.trainings == ("tones, fold 1", "tones, fold 2")


def test_digests_come_back_as_they_were_and_are_the_texts_own() -> None:
    one = digests(["a", "b", "a"])
    assert one.dtype == np.uint64
    assert one[0] == one[2] != one[1]
    seen = Seen(trainings=("x",), samples=np.unique(one), speakers=digests([]))
    back = seen_of({"seen": json.loads(json.dumps(seen.section()))}, "here")
    assert back is not None
    assert back.samples.tolist() == seen.samples.tolist()
    assert back.speakers.tolist() == []
    assert union([seen, seen]).section() == seen.section()
    assert seen_of({}, "here") is None
