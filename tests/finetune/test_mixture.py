"""Fine-tuning on samples some of which lack a modality."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.data import check_modalities
from finetune.mixing import alike, mix_batch
from finetune.module import WHOLE, FinetuneModule
from finetune.record import read_run
from finetune.settings import MixingConfig
from finetune.testing.machine import load_tested, make_machine, sample_views
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.emotion import by_presence
from hicmae.views import ViewGrid
from shards.index import read_index
from tests.finetune.test_joint import CHANGES, PARTLY
from tests.support.finetune_fixtures import Train, all_notes, write_labelled_shards

BLIND, MUTE = (2, 3, 6, 10, 16), 8


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    return write_labelled_shards(tmp_path / "mixture", mute=MUTE, blind=BLIND)


def test_samples_that_lack_a_modality_are_trained_on_counted_and_scored_apart(
    mixture: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    loss = FinetuneModule._loss

    def ask(network: Any, video: Any, fbank: Any, seen: Any, heard: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            shown.append(seen)
        return by_presence(network, video, fbank, seen, heard)

    def compare(module: FinetuneModule, *given: Any) -> Any:
        wanted.append(given[1].amax(dim=1) / module.targets.max())
        return loss(module, *given)

    monkeypatch.setattr("finetune.module.by_presence", ask)
    monkeypatch.setattr(FinetuneModule, "_loss", compare)
    run = read_run(train(on=mixture, once=True, recipe={"modality_dropout": 0.3}))
    # Who is heard alone, with sound that is not mixed, is asked for its own class.
    seen, shares = torch.cat(shown), torch.cat(wanted)
    assert (shares[~seen] == 1).all()
    assert 0 < seen.sum() < len(seen)
    assert (shares[seen] < 0.999).any()
    held = Counter(item.groups["modalities there"] for item in run.units)
    assert held == {"picture and sound": 10, "picture alone": 1, "sound alone": 1}
    assert "picture and sound: 8 with picture and sound, 4 with sound alone" in all_notes(run)
    # Asked again, by another path, the network says of each what it said, whatever it lacks.
    index = read_index(mixture)
    keys = [item.key for item in run.units]
    rows = index.table[index.table["key"].isin(keys)]
    tested = load_tested(load_checkpoint(run.folder / "fold-1" / "checkpoints" / "last"))
    machine = make_machine("cpu", "32-true", batch_size=5, workers=0)
    views = sample_views(
        tested, index, rows, grid=ViewGrid(segments=run.facts.num_segments), machine=machine
    )
    said = {item.key: item.views for item in run.units}
    for key, found in zip(rows["key"], views, strict=True):
        assert found == pytest.approx(np.array(said[key]), abs=1e-5), key


@pytest.mark.slow
def test_what_has_no_label_after_mixing_is_known_before_the_first_batch_of_a_step(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    loss = FinetuneModule._loss

    def count(
        module: FinetuneModule, outputs: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor
    ) -> Any:
        found.append(((targets[:, outputs.shape[1] :] > WHOLE).sum(dim=0), shares))
        return loss(module, outputs, targets, shares)

    monkeypatch.setattr(FinetuneModule, "_loss", count)
    on = write_labelled_shards(tmp_path / "mixture", mute=MUTE, blind=BLIND, changes=CHANGES)
    mixing = MixingConfig(probability=0.5, regression=True)
    recipe = {"batch_size": 3, "modality_dropout": 0.3}
    options: Any = {"folds": "1", "epochs": 4, "accumulate": 2, "mixing": mixing}
    train(PARTLY, on=on, recipe=recipe, **options)
    known, shares = (torch.stack(each).unflatten(0, (-1, 2)) for each in zip(*found, strict=True))
    whole = known.sum(dim=1, keepdim=True)
    assert len(whole) == 8
    assert 0 < (known < 3).sum() < known.numel()
    assert torch.allclose(shares, 2 * known / whole.clamp(min=1))


def test_what_needs_both_names_the_first_sample_that_lacks_one(mixture: Path) -> None:
    table = read_index(mixture).table
    check_modalities(table, modalities="audio-video")
    with pytest.raises(ValueError, match=r"'s1/002' has no picture .5 of 24.*--modalities audio"):
        check_modalities(table, modalities="audio-video", whole=True)
    with pytest.raises(
        ValueError, match=r"'s1/002' has no picture .* leave them out of the shards$"
    ):
        check_modalities(table, modalities="video", choice="video")
    with pytest.raises(ValueError, match=r"'s1/002' has no picture"):
        check_modalities(table, modalities="video")


def test_clips_are_mixed_with_those_that_have_the_same() -> None:
    seen = torch.tensor([True, False, True, True, False])
    heard = torch.tensor([True, True, True, False, True])
    assert alike(seen, heard).tolist() == [2, 4, 0, 3, 1]
    video, targets = torch.arange(5.0).reshape(5, 1, 1, 1, 1), torch.eye(5)
    mixed, _, shares = mix_batch(
        video,
        None,
        targets,
        MixingConfig(mixup=1.0, cutmix=0.0, probability=1.0),
        neighbour=alike(seen, heard),
    )
    assert mixed is not None
    assert shares[3, 3] == 1  # alone of its kind
    assert mixed.flatten() == pytest.approx(shares @ torch.arange(5.0))
