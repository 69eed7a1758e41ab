"""A checkpoint is verified, averaged, and described on a card."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from hicmae.__main__ import main
from hicmae.checkpoints.card import model_card
from hicmae.checkpoints.checkpoint import Labels, load_checkpoint, save_checkpoint
from hicmae.checkpoints.networks import average, verify
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig
from tests.support.prediction_fixtures import write_checkpoint


def emotion_checkpoint(folder: Path, sizes: ModelConfig, *, seed: int, **config: Any) -> Path:
    return write_checkpoint(folder, sizes, names=["joy", "anger"], seed=seed, **config)


def test_an_untouched_checkpoint_gives_the_stored_output_exactly(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    folder = emotion_checkpoint(tmp_path / "a", tiny_model_config, seed=0)
    assert verify(load_checkpoint(folder), tolerance=0.0) == ("the same", 0.0)


def test_changed_weights_are_found_by_digest_and_by_the_probe(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    folder = emotion_checkpoint(tmp_path / "a", tiny_model_config, seed=0)
    tensors = load_file(folder / "model.safetensors")
    tensors["head.bias"] += 0.5
    save_file(tensors, folder / "model.safetensors")
    checkpoint = load_checkpoint(folder)
    with pytest.raises(ValueError, match="changed or damaged since it was written"):
        verify(checkpoint, tolerance=1e-4)
    with pytest.raises(ValueError, match=r"differs from the stored one by 0\.5"):
        verify(replace(checkpoint, weights_sha256=None), tolerance=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p | {"input.fbank": p["input.fbank"].repeat(2, 1, 1)}, "does not fit this net"),
        (lambda p: {name: value[:0] for name, value in p.items()}, "no probe"),
        (lambda p: {name: p[name] for name in p if "input" in name}, "no probe"),
        (lambda p: {name: p[name] for name in p if name != "input.video"}, "no probe"),
        (lambda p: p | {"output.logits": p["output.logits"][:, :1]}, r"logits is \(1, 2\), stored"),
        (
            lambda p: {name.replace("output.", "output.my_"): p[name] for name in p},
            "it stores output.my_features, output.my_logits, the network",
        ),
        (lambda p: p | {"output.features": p["output.features"] * torch.nan}, "differs .* by nan"),
    ],
)
def test_a_probe_of_something_else_is_one_line_with_its_file(
    tmp_path: Path, tiny_model_config: ModelConfig, change: Any, said: str
) -> None:
    network = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=2))
    network.save_pretrained(tmp_path)
    probe = change(load_file(tmp_path / "probe.safetensors"))
    stored = {name: value.contiguous() for name, value in probe.items()}
    save_file(stored, tmp_path / "probe.safetensors")
    with pytest.raises(ValueError, match=rf"probe\.safetensors: .*{said}"):
        verify(load_checkpoint(tmp_path), tolerance=9.0)


def test_labels_that_are_no_outputs_are_found(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    names = {"task": "classification", "names": ["joy", "anger", "fear"]}
    folder = emotion_checkpoint(tmp_path / "a", tiny_model_config, seed=0, labels=names)
    with pytest.raises(ValueError, match="names 3 labels for 2 outputs"):
        verify(load_checkpoint(folder), tolerance=1e-4)


def test_the_average_of_three_is_their_mean(tmp_path: Path, tiny_model_config: ModelConfig) -> None:
    folders = [
        emotion_checkpoint(tmp_path / str(seed), tiny_model_config, seed=seed, scores={"uar": 0.5})
        for seed in range(3)
    ]
    EmotionModel.from_pretrained(folders[0]).bfloat16().save_pretrained(folders[0])
    words = ["checkpoint", "average", *map(str, folders), "--out", str(tmp_path / "mean")]
    assert main(words) == 0
    mean = load_checkpoint(tmp_path / "mean")
    parts = [load_checkpoint(folder) for folder in folders]
    for name, value in mean.tensors.items():
        wanted = sum(part.tensors[name].double() for part in parts) / 3
        torch.testing.assert_close(value.double(), wanted, atol=1e-7, rtol=0)
    assert "scores" not in mean.config  # they were measured with other weights
    card = (tmp_path / "mean" / "README.md").read_text()
    assert f"## Mean of the weights of\n\n|  |  |\n| --- | --- |\n| {folders[0]} | " in card
    assert [part["sha256"] for part in mean.config["averaged"]] == [
        part.weights_sha256 for part in parts
    ]
    verify(mean, tolerance=1e-5)


def test_what_does_not_belong_together_is_not_averaged(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    first = emotion_checkpoint(tmp_path / "a", tiny_model_config, seed=0)
    names = {"task": "classification", "names": ["anger", "joy"]}
    second = emotion_checkpoint(tmp_path / "b", tiny_model_config, seed=1, labels=names)
    with pytest.raises(ValueError, match=r"labels differ in names\)"):
        average([first, second])
    folds = []
    for fold in range(2):  # values are in units of each one's training side
        told = {"task": "regression", "names": ["a", "b"], "mean": [fold, 0.0], "std": [1.0, 1.0]}
        path = tmp_path / f"fold-{fold}"
        folds.append(emotion_checkpoint(path, tiny_model_config, seed=fold, labels=told))
    with pytest.raises(ValueError, match="differ in mean; `hicmae predict` of a run folder aver"):
        average(folds)
    heads = replace(tiny_model_config, encoder_heads=2 * tiny_model_config.encoder_heads)
    with pytest.raises(ValueError, match="sections 'model' differ"):  # of the same tensors
        average([first, emotion_checkpoint(tmp_path / "e", heads, seed=1)])
    HiCMAE(tiny_model_config).save_pretrained(tmp_path / "c")
    with pytest.raises(ValueError, match="kind emotion, the other pretraining"):
        average([first, tmp_path / "c"])
    with pytest.raises(ValueError, match="two checkpoints or more, found 1"):
        average([first])
    run = shutil.copytree(first, tmp_path / "run/checkpoints/last").parents[1]
    again = emotion_checkpoint(tmp_path / "d", tiny_model_config, seed=2)
    for one, other in ((first, first), (run, run / "checkpoints/last"), (first, run)):
        with pytest.raises(ValueError, match=f"^{one} and {other}: hold the same weights, which"):
            average([again, one, other])


def test_a_network_that_diverged_is_neither_averaged_nor_verified(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    network = HiCMAE(tiny_model_config)
    save_checkpoint(folders[0], network, kind="pretraining", config=network.sections())
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    save_checkpoint(folders[1], network, kind="pretraining", config=network.sections())
    for look in (
        lambda: average(folders),
        lambda: average(folders[::-1]),
        lambda: verify(load_checkpoint(folders[1]), tolerance=1.0),  # which has no probe
    ):
        with pytest.raises(ValueError, match=r"b/model\.safetensors: .* and \d+ more tensors$"):
            look()


@pytest.mark.parametrize("kind", ["emotion", "pretraining"])
def test_what_hears_and_what_sees_are_not_averaged(
    kind: str, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    folders = []
    for modality in ("audio", "video"):  # the same tensors, of which each reads half
        head = EmotionConfig(num_outputs=2, modalities=modality)
        made = {"emotion": EmotionModel(tiny_model_config, head)}
        made["pretraining"] = HiCMAE(tiny_model_config, modalities=modality)
        folders.append(tmp_path / modality)
        made[kind].save_pretrained(folders[-1])
    with pytest.raises(ValueError, match=f"'{kind}' differ in modalities"):
        average(folders)


def test_networks_that_were_shown_other_images_or_instants_are_not_averaged(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    """The average would be shown those of the first."""

    def made(name: str, **config: Any) -> Path:
        return emotion_checkpoint(tmp_path / name, tiny_model_config, seed=len(name), **config)

    data = {"build": {"max_seconds": 3}}
    short = made("short", data=data)
    average([made("long", data={"build": {"max_seconds": 9}}), short])
    elsewhere = made("elsewhere", data=data, traces={"shift_seconds": 0.3})
    wide = made("wide", data={"build": {"face_margin": 0.9}})
    for other, what in ((wide, "'data.build'"), (elsewhere, "'traces'")):
        with pytest.raises(ValueError, match=what):
            average([short, other])


def test_the_card_says_what_the_checkpoint_carries_and_no_more(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    folder = emotion_checkpoint(
        tmp_path / "a",
        tiny_model_config,
        seed=0,
        scores={"uar": 0.41251, "war": float("nan"), "v.mse": 2.5e-7},
        protocol={"benchmark": "synthetic", "fold": "1", "num_test": 72, "selection": "last"},
        data={"index_sha256": "abc"},
        licence="For research.",
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "hicmae"
    told = [(r.metric_type, r.metric_value) for r in card.data.eval_results]
    assert told == [("uar", 0.4125), ("v.mse", 2.5e-7)]
    for text in (
        "| v.mse | 2.5e-07 |",
        "| 1 | anger |",
        "| war | undefined |",
        "72 samples of fold 1 of synthetic. Selection: last.",
        "For research.",
    ):
        assert text in card.text, text
    bare = replace(
        load_checkpoint(folder), config={"model": load_checkpoint(folder).config["model"]}
    )
    text = model_card(bare)
    assert "Scores" not in text
    assert "no licence note" in text


@pytest.mark.parametrize(
    ("modality", "tag", "classifies", "what"),
    [
        ("audio", "audio", "audio-classification", "emotion from the voice"),
        ("video", "visual", "video-classification", "emotion from the face"),
        ("audio-video", "audio-visual", "video-classification", "emotion from face and voice"),
    ],
)
def test_the_card_says_what_the_network_reads(
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    modality: Any,
    tag: str,
    classifies: str,
    what: str,
) -> None:
    emotion = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=2, modalities=modality))
    emotion.carried = {
        "labels": {"task": "classification", "names": ["a|b", "c"]},
        "scores": {"uar": 0.5},
    }
    pretrained = HiCMAE(tiny_model_config, modalities=modality)
    for network, kind, opening in (
        (emotion, classifies, f"A network that predicts {what} ("),
        (pretrained, "feature-extraction", f"A pretrained {tag} masked autoencoder ("),
    ):
        folder = tmp_path / kind
        network.save_pretrained(folder)
        card = ModelCard.load(folder / "README.md")
        assert (card.data.pipeline_tag, card.data.tags[0]) == (kind, tag)
        assert {each.task_type for each in card.data.eval_results or ()} <= {kind}
        assert opening in card.text
        assert f"| modalities | {modality} |" in card.text
        assert ("the weights for the other are unused" in card.text) == (modality != "audio-video")
    assert r"| 0 | a\|b |" in (tmp_path / classifies / "README.md").read_text()


def test_labels_are_read_from_every_form(tmp_path: Path, tiny_model_config: ModelConfig) -> None:
    network = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=2))
    sizes = {"model": tiny_model_config, "emotion": network.emotion}

    def labels(**config: Any) -> Labels | None:
        save_checkpoint(tmp_path / "a", network, kind="emotion", config=sizes | config)
        return load_checkpoint(tmp_path / "a").labels()

    assert labels() is None
    assert labels(benchmark={"classes": ["a", "b"]}) == Labels(
        task="classification", names=("a", "b")
    )
    targets = {"names": ["valence", "arousal"], "mean": [0.1, 0.2], "std": [1.0, 2.0]}
    assert labels(benchmark={"classes": []}, targets=targets) == Labels(
        task="regression", names=("valence", "arousal"), mean=(0.1, 0.2), std=(1.0, 2.0)
    )
    with pytest.raises(ValueError, match="mean has 0 values, not 2"):
        labels(targets={"names": ["valence", "arousal"], "mean": [], "std": [1.0, 1.0]})
