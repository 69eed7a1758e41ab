"""What is trained: parts of the network, averages of its weights, parts of the training side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from finetune.data import training_subset
from finetune.losses import LOSSES, combined, concordance_loss, loss_terms, register_loss
from finetune.module import FinetuneModule
from finetune.record import read_run
from finetune.settings import LoraConfig, OptimizerConfig, RecipeConfig
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.config import from_dict, to_dict
from hicmae.emotion import FUSIONS, EmotionConfig, EmotionModel, by_presence
from hicmae.settings import ModelConfig
from tests.support.finetune_fixtures import BENCHMARK, VALUES, Train, all_notes


@pytest.mark.parametrize(
    ("tuning", "said"),
    [
        ("full", ""),
        ("probe", "the encoder was frozen: head and layer weights alone were trained"),
        ("fusion", "the encoders of both modalities were frozen"),
        ("lora", "low-rank updates of rank 2 (alpha 16, dropout 0) of qkv"),
    ],
)
def test_each_tuning_trains_its_part_and_reports_how_much(
    tuning: Any, said: str, pretrained: Path, train: Train
) -> None:
    out = train(
        model=None,
        checkpoint=pretrained,
        once=True,
        recipe=RecipeConfig(batch_size=4, tuning=tuning, lora=LoraConfig(rank=2)),
        optimizer=OptimizerConfig(warmup_epochs=0, learning_rate=1.0),
    )
    before, after = load_checkpoint(pretrained), load_checkpoint(out / "fold-1")
    changed = {
        name.removeprefix("encoder.")
        for name, value in after.tensors.items()
        if name.startswith("encoder.") and not torch.equal(value, before.tensors[name])
    }
    assert after.config["finetuning"]["tuning"] == tuning
    run = read_run(out)
    emotion = from_dict(EmotionConfig, after.config["emotion"], "emotion")
    model = EmotionModel(after.model_config(), emotion)
    model.load_state_dict(after.tensors)  # strictly: no trace of how it was tuned
    own = sum(v.numel() for n, v in model.named_parameters() if not n.startswith("encoder."))
    layers, parts = ({name.split(".")[place] for name in changed} for place in (-2, 0))
    of_encoder = {
        "full": sum(v.numel() for v in model.encoder.parameters()),
        "probe": 0,
        "fusion": sum(v.numel() for v in model.encoder.fusion.parameters()),
        "lora": sum(
            2 * sum(v.shape)  # of rank 2
            for n, v in model.encoder.named_parameters()
            if n.split(".")[-2] in ("qkv", "query", "key_value") and v.ndim == 2
        ),
    }
    assert (run.facts.init, run.facts.num_parameters) == ("checkpoint", own + of_encoder[tuning])
    assert said in all_notes(run)
    assert {
        "full": len(changed) > 40,
        "probe": changed == set(),
        "fusion": parts == {"fusion"},
        "lora": layers == {"qkv", "query", "key_value"},
    }[tuning]


@pytest.mark.slow
def test_the_average_of_the_weights_is_tested_saved_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    seen: list[dict[str, np.ndarray]] = []

    def note(module: FinetuneModule, *_: Any) -> None:
        seen.append({n: v.detach().numpy().copy() for n, v in module.model.named_parameters()})

    monkeypatch.setattr(FinetuneModule, "on_train_batch_end", note)
    for decay in (0.5, None):
        seen.clear()
        out = train(
            name=f"run-{decay}",
            folds="1",
            recipe={"ema_decay": decay},
            optimizer=OptimizerConfig(warmup_epochs=0, learning_rate=1.0),
        )
        assert len(seen) == 6
        average = dict(seen[0])
        for step, weights in enumerate(seen[1:], start=1):
            kept = 0.0 if decay is None else min(decay, (1 + step) / (10 + step))
            average = {n: kept * average[n] + (1 - kept) * weights[n] for n in weights}
        checkpoint = load_checkpoint(out / "fold-1")
        assert checkpoint.config["finetuning"]["ema_decay"] == decay
        saved = checkpoint.tensors
        for name, value in average.items():
            assert saved[name].numpy() == pytest.approx(value, abs=1e-6), name
        said = "an exponential moving average of those of every step, with decay 0.5"
        assert (said in all_notes(read_run(out))) == (decay is not None)
        assert any(not np.allclose(saved[n].numpy(), seen[-1][n], atol=1e-6) for n in average) == (
            decay is not None
        )
    one, other = (tmp_path / f"run-{decay}" / "predictions.jsonl" for decay in (0.5, None))
    assert one.read_text() != other.read_text()


@pytest.mark.slow
def test_layer_decay_slows_the_layers_far_from_the_head(
    monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    """One step of AdamW moves a weight by its rate, whatever the gradient."""
    moved: dict[float | None, dict[str, float]] = {}
    decay: float | None = None
    started: dict[str, torch.Tensor] = {}

    def begin(module: FinetuneModule) -> None:
        started.update({n: v.detach().clone() for n, v in module.model.named_parameters()})

    def end(module: FinetuneModule, outputs: Any, batch: Any, number: int) -> None:
        if number == 0:
            moved[decay] = {
                n: float((v.detach() - started[n]).abs().median())
                for n, v in module.model.named_parameters()
                if n.endswith("mlp.fc1.weight") or n == "head.weight"
            }

    monkeypatch.setattr(FinetuneModule, "on_train_start", begin)
    monkeypatch.setattr(FinetuneModule, "on_train_batch_end", end)
    for decay in (None, 0.5):
        train(
            name=f"run-{decay}",
            once=True,
            optimizer=OptimizerConfig(warmup_epochs=0, layer_decay=decay, weight_decay=0.0),
        )
    rate = 1e-3 * 4 / 256
    assert all(value == pytest.approx(rate, rel=0.05) for value in moved[None].values())
    for name, value in moved[0.5].items():
        # Two encoder layers, one fusion layer, then the head.
        above = {"video": 3, "audio": 3, "fusion": 1, "weight": 0}[name.split(".")[1]]
        above -= int("blocks.1" in name)
        assert value == pytest.approx(rate * 0.5**above, rel=0.05), name


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("mse", {"mse": 1.0}),
        ("mse+ccc", {"mse": 1.0, "ccc": 1.0}),
        ("0.5*l1 + 2 * ccc", {"l1": 0.5, "ccc": 2.0}),
    ],
)
def test_losses_are_read_as_sums(text: str, terms: dict[str, float]) -> None:
    read = loss_terms(text, "regression")
    assert {term.name: term.factor for term in read} == terms
    outputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    gap = outputs - targets
    by_hand = {
        "mse": gap.square().mean(),
        "l1": gap.abs().mean(),
        "ccc": concordance_loss(outputs, targets),
    }
    total, each = combined(read, outputs, targets)
    expected = sum(factor * by_hand[name] for name, factor in terms.items())
    assert total.item() == pytest.approx(float(expected))
    assert {name: value.item() for name, value in each.items()} == pytest.approx(
        {name: by_hand[name].item() for name in terms}
    )


@pytest.mark.parametrize(
    ("text", "task", "said"),
    [
        ("mse+huber", "regression", r"'huber' is none of its losses \(allowed: mse, l1, ccc, or"),
        ("mse+mse", "regression", "names mse twice"),
        ("-1*mse", "regression", "the factor of mse must be a positive number"),
        ("much*mse", "regression", "the factor of mse must be a positive number"),
        ("ccc", "classification", "does not fit classification"),
        ("cel", "distribution", r"cross-entropy, kl, or a sum such as cross-entropy\+0\.5\*kl\)"),
    ],
)
def test_losses_that_are_none_are_refused(text: str, task: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        loss_terms(text, task)


@pytest.mark.slow
def test_each_loss_trains_by_its_own_gradient(train: Train) -> None:
    outs = {}
    for loss in ("mse", "l1", "mse+ccc"):
        outs[loss] = train(VALUES, name=loss, once=True, recipe={"loss": loss})
    tables = {loss: pd.read_csv(out / "fold-1" / "metrics.csv") for loss, out in outs.items()}
    assert "loss_ccc" not in tables["mse"]
    rows = tables["mse+ccc"].dropna(subset=["loss_step"])
    total = (rows["loss_mse"] + rows["loss_ccc"]).to_numpy()
    assert rows["loss_step"].to_numpy() == pytest.approx(total, rel=1e-5)
    # All start alike; after a step each went its own way.
    first = {loss: table["loss_step"].dropna().iloc[0] for loss, table in tables.items()}
    assert rows["loss_mse"].iloc[0] == pytest.approx(first["mse"], rel=1e-5)
    texts = {(out / "predictions.jsonl").read_text() for out in outs.values()}
    assert len(texts) == 3
    assert read_run(outs["mse+ccc"]).facts.loss == "mse+ccc"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Elbow:
    """Settings of a loss of somebody else's."""

    bend: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """Settings of the fusion below."""

    number: int = 1


class OneLayer(torch.nn.Module):
    """A fusion that passes one layer on."""

    def __init__(self, num_layers: int, num_tokens: int, dim: int, settings: Layer) -> None:
        super().__init__()
        self.place = settings.number - 1

    def forward(self, layers: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return layers[self.place].mean(dim=1)


@pytest.mark.slow
def test_a_fusion_from_outside_is_asked_for_by_the_recipe(train: Train) -> None:
    FUSIONS.register("one-layer", settings=Layer)(OneLayer)
    try:
        runs = [
            train(
                name=f"layer-{number}",
                once=True,
                recipe={"fusion": "one-layer", "fusion_settings": {"number": number}},
            )
            for number in (1, 2)
        ]
        first, second = map(read_run, runs)
        assert first.predictions != second.predictions
        assert first.facts.experiment_digest != second.facts.experiment_digest
        checkpoint = load_checkpoint(runs[1] / "fold-1")
        emotion = checkpoint.config["emotion"]
        assert (emotion["fusion"], emotion["fusion_settings"]) == ("one-layer", {"number": 2})
    finally:
        FUSIONS.unregister("one-layer")


@pytest.mark.slow
def test_a_loss_from_outside_is_one_registered_name_with_its_settings(train: Train) -> None:
    def trained(name: str, **recipe: Any) -> Path:
        return train(VALUES, name=name, once=True, recipe={"loss": "mse+0.5*elbow", **recipe})

    @register_loss("elbow", tasks=["regression"], settings=Elbow)
    def elbow(outputs: torch.Tensor, targets: torch.Tensor, *, bend: float) -> torch.Tensor:
        return torch.nn.functional.huber_loss(outputs, targets, delta=bend)

    try:
        bent = trained("bent", loss_settings={"elbow": {"bend": 0.1}})
        plain = trained("plain")
        table = pd.read_csv(bent / "fold-1" / "metrics.csv").dropna(subset=["loss_step"])
        total = (table["loss_mse"] + 0.5 * table["loss_elbow"]).to_numpy()
        assert table["loss_step"].to_numpy() == pytest.approx(total, rel=1e-5)
        runs = [read_run(bent), read_run(plain)]
        assert runs[0].predictions != runs[1].predictions
        assert runs[0].facts.experiment_digest != runs[1].facts.experiment_digest
        for settings, said in (
            ({"elbow": {"blend": 1.0}}, "unknown key 'blend'; did you mean 'bend'"),
            ({"elbo": {}}, "settings of 'elbo', .*; did you mean 'elbow'"),
        ):
            with pytest.raises(ValueError, match=said):
                trained("no", loss_settings=settings)
        with pytest.raises(ValueError, match="'elbow' is none of its losses"):
            loss_terms("elbow", "classification")
    finally:
        LOSSES.unregister("elbow")
    assert "loss_settings" not in to_dict(RecipeConfig())  # nor do digests change by it


def test_clips_of_one_modality_are_as_at_test_time(tiny_model_config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=3, drop_path=0.0)).eval()
    size = tiny_model_config.input
    video = torch.randn(5, 3, size.num_frames, size.image_size, size.image_size)
    fbank = torch.randn(5, size.fbank_frames, size.mel_bins)
    seen = torch.tensor([True, True, False, True, False])
    heard = torch.tensor([True, False, True, True, True])
    with torch.no_grad():
        found = by_presence(model, video, fbank, seen, heard)
        for row in range(5):
            clip = slice(row, row + 1)
            alone = model(video[clip] if seen[row] else None, fbank[clip] if heard[row] else None)
            assert torch.allclose(found[clip], alone, atol=1e-5)
        with pytest.raises(ValueError, match="both modalities are absent"):
            by_presence(model, video, fbank, seen, torch.zeros(5, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.parametrize(("share", "modalities"), [(0.5, "audio-video"), (1.0, "video")])
def test_modality_dropout_takes_one_of_two_and_never_both(
    share: float, modalities: str, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    drawn: list[torch.Tensor] = []

    def note(network: Any, video: Any, fbank: Any, seen: Any, heard: Any) -> Any:
        if torch.is_grad_enabled() and seen is not None:
            drawn.append(torch.stack([seen, heard], dim=1))
        return by_presence(network, video, fbank, seen, heard)

    monkeypatch.setattr("finetune.module.by_presence", note)
    out = train(
        folds="1",
        epochs=10 if modalities == "audio-video" else 1,
        modalities=modalities,
        recipe={"modality_dropout": share},
    )
    said = "had one of its modalities alone with probability" in all_notes(read_run(out))
    assert said == (modalities == "audio-video")
    if modalities == "video":
        assert drawn == []
        return
    pairs = torch.cat(drawn)  # (120, 2)
    assert pairs.any(dim=1).all()
    single = ~pairs.all(dim=1)
    assert abs(single.float().mean() - 0.5) < 0.15
    assert abs(pairs[single, 0].float().mean() - 0.5) < 0.2


def side(number: int = 60) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "key": [f"k{n}" for n in range(number)],
            "emotion": ["high" if n % 3 == 0 else "low" for n in range(number)],
            "valence": np.linspace(-1, 1, number),
            "arousal": 0.0,
        }
    )


def test_few_shots_are_of_each_class_nested_and_the_seeds_own() -> None:
    rows = side()

    def chosen(shots: int, seed: int = 0, rows: pd.DataFrame = rows) -> set[str]:
        found = training_subset(BENCHMARK, rows, shots=shots, fraction=1.0, seed=seed)
        assert found["emotion"].value_counts().to_dict() == {"low": shots, "high": shots}
        assert found.index.is_monotonic_increasing
        return set(found["key"])

    assert chosen(2) < chosen(5) < chosen(9)
    assert chosen(5) != chosen(5, seed=1)
    assert chosen(5, rows=rows.sample(frac=1, random_state=0).sort_index()) == chosen(5)
    with pytest.raises(ValueError, match=r"class high has 20 training samples, and .* = 21"):
        training_subset(BENCHMARK, rows, shots=21, fraction=1.0, seed=0)


def test_a_fraction_is_stratified_for_classes_and_for_values() -> None:
    rows = side()
    found = training_subset(BENCHMARK, rows, shots=None, fraction=0.25, seed=0)
    assert found["emotion"].value_counts().to_dict() == {"low": 10, "high": 5}
    rounded = training_subset(BENCHMARK, rows, shots=None, fraction=0.29, seed=0)
    assert rounded["emotion"].value_counts().to_dict() == {"low": 12, "high": 6}
    tiny = training_subset(BENCHMARK, rows, shots=None, fraction=0.001, seed=0)
    assert sorted(tiny["emotion"]) == ["high", "low"]
    values = training_subset(VALUES, rows, shots=None, fraction=0.5, seed=0)
    bands = np.histogram(values["valence"], bins=5, range=(-1, 1))[0]
    assert bands.tolist() == [6] * 5
    assert training_subset(VALUES, rows, shots=None, fraction=1.0, seed=0) is rows


def test_a_few_shot_run_says_what_it_was_trained_on(tmp_path: Path, train: Train) -> None:
    out = train(once=True, recipe=RecipeConfig(batch_size=4, shots=2))
    assert read_run(out).folds[0].num_train == 4
    said = "trained on 4 of 12 samples: 2 of each class, drawn by seed 0"
    assert said in all_notes(read_run(out))
    with pytest.raises(ValueError, match="class high has 6 training samples"):
        train(name="no", recipe=RecipeConfig(shots=7))
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shots": 0}, "shots = 0"),
        ({"fraction": 0.0}, "fraction = 0.0"),
        ({"shots": 2, "fraction": 0.5}, "both given"),
        ({"ema_decay": 1.0}, "ema_decay = 1.0"),
        ({"modality_dropout": 1.5}, "modality_dropout = 1.5"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RecipeConfig(**settings)
    with pytest.raises(ValueError, match=r"rank = 0 .*; alpha = 0.* projections = none"):
        LoraConfig(rank=0, alpha=0.0, projections=())
