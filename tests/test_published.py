"""The published recipe, constant by constant with its source, against configs and protocol.

Source of all: https://github.com/sunlicai/HiCMAE at commit cdd28d4. *script* is the one that starts
the program, *program* a default that this script leaves as it is, *code* what the program calls.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from finetune.benchmark import load_benchmark
from finetune.plan import decide_protocol
from finetune.selection import CHOICES, departures
from finetune.settings import FinetuneConfig, OptimizerConfig, RecipeConfig
from hicmae.config import config_root, from_dict, load_yaml, to_dict
from tests.support.finetune_fixtures import paper_settings

# Option of a file: its value, and where that is written.
PRETRAIN: dict[str, tuple[Any, str]] = {
    "model.size": ("base", "script: --model pretrain_hicmae_dim512_patch16_160_a256"),
    "data.split": ("train", "preprocess/voxceleb2.py: the development set"),
    "data.shuffle_shards": (None, "code: a distributed sampler that shuffles the whole list"),
    "data.batch_size": (40, "script: --batch_size"),
    "epochs": (100, "script: --epochs"),
    "accumulate": (1, "code: one step a batch"),
    "precision": ("16-mixed", "code: torch.cuda.amp"),
    "workers": (16, "script: --num_workers"),
    "hardware.devices": (4, "script: --nproc_per_node"),
    "hardware.strategy": ("ddp", "program: DistributedDataParallel"),
    "optimizer.learning_rate": (3e-4, "script: --lr"),
    "optimizer.min_learning_rate": (1e-5, "program: --min_lr"),
    "optimizer.warmup_epochs": (5, "script: --warmup_epochs"),
    "optimizer.weight_decay": (0.05, "program: --weight_decay"),
    "optimizer.betas": ([0.9, 0.95], "script: --opt_betas"),
    "optimizer.eps": (1e-8, "program: --opt_eps"),
    "optimizer.clip_norm": (None, "program: --clip_grad"),
    "objective.video_mask_ratio": (0.9, "script: --mask_ratio"),
    "objective.audio_mask_ratio": (0.8, "script: --mask_ratio_audio"),
    "objective.video_weight": (1.0, "code: losses are added"),
    "objective.audio_weight": (1.0, "code: losses are added"),
    "objective.contrast_weight": (0.0025, "script: --loss_weight"),
    "objective.temperature": (0.07, "script: --inter_contrastive_temperature"),
    "objective.negatives": ("local", "code: nothing is gathered"),
    "objective.skip_connections": (True, "script: --return_intermediate_features 3 6 9"),
    "objective.frame_difference": (True, "script: --use_frame_diff_as_target"),
    "augment.crop": ("multi-scale", "code: GroupMultiScaleCrop"),
    "augment.crop_scales": ([1.0, 0.875, 0.75, 0.66], "code: datasets_av.py"),
    "augment.flip": (0.0, "code: it has none"),
    "augment.gain": (True, "script: --roll_mag_aug"),
    "augment.gain_concentration": (10, "code: beta(10, 10)"),
    "augment.roll_seconds": (0.0, "code: its roll draws from a range of 1"),
}
FINETUNE: dict[str, tuple[Any, str]] = {
    "accumulate": (4, "script: --nproc_per_node 4, one after another"),
    "workers": (16, "script: --num_workers"),
    "recipe.batch_size": (14, "script: --batch_size"),
    "recipe.label_smoothing": (0.1, "program: --smoothing"),
    "recipe.drop_path": (0.1, "program: --drop_path"),
    "recipe.feature_fusion": (True, "paper, section 3.5"),
    "recipe.num_segments": (2, "script: --test_num_segment"),
    "optimizer.learning_rate": (1e-3, "script: --lr"),
    "optimizer.min_learning_rate": (1e-6, "program: --min_lr"),
    "optimizer.warmup_epochs": (5, "program: --warmup_epochs"),
    "optimizer.weight_decay": (0.05, "script: --weight_decay"),
    "optimizer.betas": ([0.9, 0.999], "script: --opt_betas"),
    "optimizer.layer_decay": (0.75, "program: --layer_decay"),
    "mixing.mixup": (0.8, "program: --mixup"),
    "mixing.cutmix": (1.0, "program: --cutmix"),
    "mixing.switch": (0.5, "program: --mixup_switch_prob"),
    "mixing.audio": (False, "code: engine_for_finetuning_av.py mixes frames and labels"),
    "augment.crop": ("random-resized", "code: kinetics_av.py"),
    "augment.crop_area": ([0.08, 1.0], "code: kinetics_av.py, both of its classes"),
    "augment.flip": (0.5, "code: video_transforms.horizontal_flip"),
    "augment.rand_operations": (4, "program: --aa rand-m7-n4-mstd0.5-inc1"),
    "augment.rand_magnitude": (7.0, "program: --aa rand-m7-n4-mstd0.5-inc1"),
    "augment.rand_deviation": (0.5, "program: --aa rand-m7-n4-mstd0.5-inc1"),
    "augment.erase": (0.25, "program: --reprob"),
    "augment.gain": (True, "program: --roll_mag_aug is on"),
}
# Benchmark: epochs, rate, loss and stride of its script; none of these without a script.
SCRIPTS: dict[str, dict[str, Any]] = {
    "crema_d": {"epochs": 50, "learning_rate": 1e-3},
    "mafw": {"epochs": 100, "learning_rate": 1e-3},
    "werewolf_xl": {"epochs": 30, "learning_rate": 1e-3, "loss": "mse", "frame_stride": 3},
}
OURS = {"data.on_bad", "device"}  # of the pretraining file; and its log


def flat(document: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted options of a file and their values."""
    for name, value in document.items():
        if isinstance(value, dict):
            yield from flat(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


@pytest.mark.parametrize(
    ("file", "table"),
    [("pretrain/voxceleb2_base.yaml", PRETRAIN), ("finetune/paper_base.yaml", FINETUNE)],
)
def test_every_number_of_a_published_recipe_is_its_source_s(
    file: str, table: dict[str, tuple[Any, str]]
) -> None:
    options = dict(flat(load_yaml(config_root() / file)))
    asked = {name for name in options if not name.startswith("log.")} - OURS
    assert asked == set(table)
    assert {name: options[name] for name in table} == {n: value for n, (value, _) in table.items()}


@pytest.mark.parametrize("size", ["small", "tiny"])
def test_sizes_without_a_script_take_its_numbers_and_do_not_claim_one(size: str) -> None:
    path = config_root() / f"pretrain/voxceleb2_{size}.yaml"
    options = dict(flat(load_yaml(path)))
    assert {name: options[name] for name in PRETRAIN if name != "model.size"} == {
        name: value for name, (value, _) in PRETRAIN.items() if name != "model.size"
    }
    assert "[code]" not in path.read_text()


@pytest.mark.parametrize("name", sorted(path.stem for path in config_root().glob("benchmarks/*")))
def test_a_benchmark_has_the_recipe_of_its_script(name: str) -> None:
    recipe = to_dict(load_benchmark(name).recipe)
    said = {key: value for key, value in recipe.items() if value is not None}
    if name in SCRIPTS:
        assert said == SCRIPTS[name]
        assert departures(paper_settings(epochs=said["epochs"]), load_benchmark(name)) == []


# Their validation side is the test side: in the code, or (MSP-IMPROV) as equal lists.
PROVEN = {
    *("avcaffe_arousal", "avcaffe_valence", "crema_d", "crema_d_4", "mafw"),
    *("mafw_43", "mafw_43_index", "msp_improv", "ravdess", "werewolf_xl"),
}
UNRELEASED = {"dfew", "iemocap", "mer_multi"}
# Folds of the release, UAR and WAR in percent, and what they pool to; not the paper's headline.
FOLDS = {
    "crema_d": (
        "0.8666/0.8667 0.8327/0.8320 0.8723/0.8719 0.8370/0.8379 0.8388/0.8379",
        "0.8494/0.8491",
    ),
    "mafw": (
        "0.3602/0.4760 0.4157/0.5510 0.4646/0.6010 0.4750/0.6309 0.4188/0.5522",
        "0.4269/0.5621",
    ),
}


@pytest.mark.parametrize("name", sorted(PROVEN | UNRELEASED))
def test_what_is_said_of_the_tested_epoch_is_what_the_release_shows(name: str) -> None:
    for item in load_benchmark(name).published:
        if item.method.startswith("HiCMAE"):
            assert ("their code tests every one on the test split" in item.note) == (name in PROVEN)
            assert ("the lists of their splits are unreleased" in item.note) == (name in UNRELEASED)
    if name in FOLDS:
        headline = load_benchmark(name).published[0]
        folds, pooled = FOLDS[name]
        assert f"the folds of the release pool to {pooled}" in headline.note
        assert all(fold in headline.note for fold in folds.split())
        assert f"{headline.scores['uar']:.4f}/{headline.scores['war']:.4f}" != pooled


def test_no_number_is_credited_to_another_paper() -> None:
    rows = [item for name in PROVEN for item in load_benchmark(name).published]
    (source,) = {item.source for item in rows if item.method == "AVF-MAE++"}
    assert "CVPR 2025" in source
    assert "arXiv" not in source


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, tuple):
        return tuple(reversed(value))
    if value is None or isinstance(value, bool):
        return not value
    return "other" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice.option)
def test_the_protocol_refuses_every_other_choice_and_names_the_published_one(choice: Any) -> None:
    benchmark, config = load_benchmark("crema_d"), paper_settings()
    assert decide_protocol(config, benchmark).judge == "war"
    changed = copy.deepcopy(config)
    section, name = choice.option.split(".")
    # Past the settings' own checks, which know their ranges better than this test.
    object.__setattr__(getattr(changed, section), name, other(choice.value))
    (said,) = departures(changed, benchmark)
    assert said.startswith(f"{choice.option} = ")
    with pytest.raises(ValueError, match=r"protocol = paper contradicts .*\(it has ") as caught:
        decide_protocol(changed, benchmark)
    assert "paper_base.yaml" in str(caught.value)
    if choice.option in FINETUNE:
        published = FINETUNE[choice.option][0]
        wanted = list(choice.value) if isinstance(choice.value, tuple) else choice.value
        assert wanted == published


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"accumulate": 2}, r"batch_size x accumulate = 14 x 2 \(it has 56 clips a step"),
        ({"epochs": 80}, r"epochs = 80 \(it has 50\)"),
        (
            {"recipe": RecipeConfig(batch_size=14, frame_stride=8)},
            r"recipe.frame_stride = 8 \(it has 4\)",
        ),
        ({"model": {"size": "base", "num_frames": 32}}, r"model.num_frames = 32 \(it has 16\)"),
        ({"selection": "last"}, r"selection = last \(it chooses best-on-test\)"),
        (
            {"optimizer": OptimizerConfig(weight_decay=0.05, layer_decay=None)},
            r"optimizer.layer_decay = null \(it has 0.75\)",
        ),
    ],
)
def test_batch_epochs_and_rule_are_the_published_ones_too(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        decide_protocol(paper_settings(**options), load_benchmark("crema_d"))


def test_where_no_script_says_it_epochs_and_batch_are_free() -> None:
    config = paper_settings(epochs=7)
    assert departures(config, load_benchmark("ravdess")) == []
    values = load_benchmark("werewolf_xl")
    assert decide_protocol(paper_settings(accumulate=3), values).judge == "ccc"
    assert from_dict(FinetuneConfig, to_dict(config), "settings") == config
