"""The authors' files become checkpoints and go back, to the last bit; nothing odd gets through."""

from __future__ import annotations

import json
import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from hicmae.__main__ import main
from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.checkpoints.convert import (
    convert_reference,
    export_reference,
    find_sizes,
    read_pickle,
    reference_name,
    their_name,
    to_reference,
)
from hicmae.checkpoints.portable import read_probe
from hicmae.config import save_yaml
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.pretraining import HiCMAE
from hicmae.settings import InputConfig, ModelConfig
from tests.support.prediction_fixtures import real_values, write_checkpoint

PARITY_SIZES = ModelConfig(
    input=InputConfig(image_size=32, fbank_frames=64, mel_bins=32),
    encoder_dim=32,
    encoder_heads=2,
    decoder_dim=16,
    decoder_heads=2,
)


@pytest.fixture
def pretrained(tmp_path: Path, tiny_model_config: ModelConfig) -> Path:
    """A file of the authors' shape with a tiny pretraining network."""
    torch.manual_seed(0)
    weights = to_reference(HiCMAE(tiny_model_config).state_dict(), tiny_model_config)
    content = {
        "model": weights,
        "optimizer": {"state": {}},
        "epoch": 99,
        "args": Namespace(mask_ratio=0.75),
    }
    torch.save(content, tmp_path / "checkpoint-99.pth")
    return tmp_path / "checkpoint-99.pth"


@pytest.fixture
def finetuned(tmp_path: Path, tiny_model_config: ModelConfig) -> Path:
    """The same of a fine-tuned network of three classes."""
    torch.manual_seed(0)
    network = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=3))
    weights = to_reference(network.state_dict(), tiny_model_config)
    torch.save({"model": weights}, tmp_path / "finetuned.pth")
    return tmp_path / "finetuned.pth"


def changed(file: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The file with something changed in its weights."""
    content = read_pickle(file)
    change(content["model"])
    torch.save(content, file)
    return file


def test_the_published_file_gives_the_numbers_of_the_published_network(
    parity_dir: Path, tmp_path: Path
) -> None:
    made, difference = convert_reference(
        parity_dir / "reference_checkpoint.pth",
        tmp_path / "base",
        sizes=PARITY_SIZES,
        probe=parity_dir / "paper_depth_pretrain.safetensors",
    )
    assert difference is not None
    assert difference < 1e-5
    assert made.config["probe"] == {"from": "the authors' network"}
    kept, theirs = (
        read_probe(path)
        for path in (
            made.path / "probe.safetensors",
            parity_dir / "paper_depth_pretrain.safetensors",
        )
    )
    assert kept.keys() == theirs.keys()
    assert all(torch.equal(kept[name], theirs[name]) for name in theirs)
    source = made.config["source"]
    assert source["options"]["model"] == "pretrain_hicmae_dim512_patch16_160_a256"
    assert source["epoch"] == 99


def test_the_published_finetuned_weights_give_the_published_logits(
    parity_dir: Path, tmp_path: Path
) -> None:
    numbers = load_file(parity_dir / "paper_depth_finetune.safetensors")
    weights = {k.removeprefix("param."): v for k, v in numbers.items() if k.startswith("param.")}
    torch.save({"model": weights}, tmp_path / "finetuned.pth")
    names = [f"class {number}" for number in range(11)]
    made, difference = convert_reference(
        tmp_path / "finetuned.pth",
        tmp_path / "made",
        sizes=PARITY_SIZES,
        labels=names,
        probe=parity_dir / "paper_depth_finetune.safetensors",
    )
    assert difference is not None
    assert difference < 1e-5
    labels = made.labels()
    assert labels is not None
    assert labels.names == tuple(names)


@pytest.mark.parametrize("kind", ["pretrained", "finetuned"])
def test_there_and_back_changes_no_bit(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    file = request.getfixturevalue(kind)
    made, _ = convert_reference(file, tmp_path / "made", sizes=tiny_model_config)
    export_reference(made, tmp_path / "back.pth")
    before, after = read_pickle(file), read_pickle(tmp_path / "back.pth")
    assert set(before["model"]) == set(after["model"])
    for name, value in before["model"].items():
        assert value.dtype == after["model"][name].dtype, name
        assert torch.equal(value, after["model"][name]), name
    assert after.get("epoch") == before.get("epoch")
    assert vars(after["args"]) == vars(before.get("args", Namespace()))
    if kind == "pretrained":  # the ratio comes from the options of the file
        assert made.config["objective"]["video_mask_ratio"] == 0.75


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": "audio"}, "reads audio alone, and the .* does not; use --format torch"),
        ({"feature_fusion": False}, "fuses no layers, and"),
        ({"constants": (1,)}, "has outputs that are the same for every clip, and"),
        (None, "reads video alone, .* fine-tune it here, then use --format"),
    ],
)
def test_a_network_that_theirs_is_not_is_not_written_under_their_names(
    settings: Any, message: str, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    network: HiCMAE | EmotionModel = HiCMAE(tiny_model_config, modalities="video")
    if settings is not None:
        network = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=2, **settings))
    network.save_pretrained(tmp_path / "made")
    with pytest.raises(ValueError, match=message):
        export_reference(load_checkpoint(tmp_path / "made"), tmp_path / "theirs.pth")
    assert not (tmp_path / "theirs.pth").exists()


def test_what_the_authors_file_has_no_place_for_is_said(
    tmp_path: Path, tiny_model_config: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = real_values("arousal", "valence", mean=3, std=0.5)
    made = write_checkpoint(tmp_path / "a", tiny_model_config, names=labels["names"], labels=labels)
    words = ["checkpoint", "export", str(made), str(tmp_path / "a.pth"), "--format", "reference"]
    assert main(words) == 0
    formulas = "arousal = 0.5 * output 0 + 3, valence = 0.5 * output 1 + 3"
    assert f"no place for the unit of the labels: {formulas}\n" in capsys.readouterr().out


def test_every_name_of_both_networks_translates_back(tiny_model_config: ModelConfig) -> None:
    networks = (
        HiCMAE(tiny_model_config),
        EmotionModel(tiny_model_config, EmotionConfig(num_outputs=2)),
    )
    names = {name for network in networks for name in network.state_dict()}
    assert len({their_name(name) for name in names}) == len(names)
    assert all(reference_name(their_name(name)) == name for name in names)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_published_sizes_are_found_in_the_weights_alone(size: str) -> None:
    from hicmae.config import load_model_config

    wanted = load_model_config(size)
    with torch.device("meta"):
        tensors = HiCMAE(wanted).state_dict()
    options = Namespace(input_size=160, num_frames=16)
    assert find_sizes(tensors, options, "x.pth") == wanted
    shallow = {name: value for name, value in tensors.items() if ".video.blocks.9." not in name}
    # Whose layers are fused, nobody has published.
    with pytest.raises(ValueError, match="encoder_depth = 9 is not 10"):
        find_sizes(shallow, options, "x.pth")


def test_projections_are_the_convolutions_of_pytorch(tiny_model_config: ModelConfig) -> None:
    """One cell of values (frame, row, column, channel) by our matrix, and by theirs."""
    tubelet, cell = torch.randn(1, 2, 16, 16, 3), torch.randn(1, 16, 16)
    ours = {
        "encoder.video.project.weight": torch.randn(32, tubelet.numel()),
        "encoder.audio.project.weight": torch.randn(32, cell.numel()),
    }
    video, audio = to_reference(ours, tiny_model_config).values()
    of_video = functional.conv3d(tubelet.permute(0, 4, 1, 2, 3), video).flatten()
    of_audio = functional.conv2d(cell[:, None], audio).flatten()
    for (name, weight), found, values in zip(
        ours.items(), (of_video, of_audio), (tubelet, cell), strict=True
    ):
        torch.testing.assert_close(found, weight @ values.flatten(), msg=name, atol=1e-3, rtol=0)


def test_a_size_that_only_the_user_knows_is_asked_for(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"encoder_dim = 32 is no multiple of 64.*--model"):
        convert_reference(pretrained, tmp_path / "made")


def test_each_missing_extra_and_misshapen_tensor_is_named(
    pretrained: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    def change(weights: dict[str, Any]) -> None:
        for number in range(2):
            del weights[f"encoder.blocks.{number}.attn.q_bias"]
            weights[f"encoder.blocks.{number}.attn.k_bias"] = torch.zeros(32)
            weights[f"encoder_audio.blocks.{number}.attn.proj.bias"] = torch.zeros(31)
            weights[f"encoder_audio.blocks.{number}.attn.q_bias"] = torch.zeros(2, 16)

    file = changed(pretrained, change)
    with pytest.raises(ValueError, match="8 tensors do not fit") as error:
        convert_reference(file, tmp_path / "made", sizes=tiny_model_config)
    for number in range(2):
        assert f"missing encoder.blocks.{number}.attn.q_bias" in str(error.value)
        assert f"extra encoder.blocks.{number}.attn.k_bias" in str(error.value)
        wrong = f"encoder_audio.blocks.{number}.attn.proj.bias is (31,) instead of (32,)"
        assert wrong in str(error.value)
        assert f"encoder_audio.blocks.{number}.attn.q_bias is (2, 16)" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "made").exists()


def test_numbers_that_are_none_are_refused_by_name(
    pretrained: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    file = changed(pretrained, lambda weights: weights["decoder.norm.bias"].fill_(float("nan")))
    with pytest.raises(ValueError, match=r"none at all in decoder\.norm\.bias"):
        convert_reference(file, tmp_path / "made", sizes=tiny_model_config)


def test_a_probe_of_other_weights_is_refused_and_nothing_is_written(
    pretrained: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    made, _ = convert_reference(pretrained, tmp_path / "made", sizes=tiny_model_config)
    probe = load_file(made.path / "probe.safetensors")
    probe["output.audio_prediction"] += 0.01
    save_file(probe, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"differs from that in .* by 0\.01"):
        convert_reference(
            pretrained,
            tmp_path / "again",
            sizes=tiny_model_config,
            probe=tmp_path / "other.safetensors",
        )
    assert not (tmp_path / "again").exists()


class _Runs:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_with_code_is_refused_by_name_and_not_run(
    tmp_path: Path, new_format: bool
) -> None:
    file, trace = tmp_path / "evil.pth", tmp_path / "ran"
    torch.save({"model": _Runs(trace)}, file, _use_new_zipfile_serialization=new_format)
    with pytest.raises(ValueError, match=r"evil\.pth: holds (builtins\.)?exec,") as error:
        convert_reference(file, tmp_path / "made")
    assert not trace.exists()
    assert "\n" not in str(error.value)


def test_an_old_file_that_is_cut_off_anywhere_gets_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.pth"
    content = {"model": {"a": torch.ones(3)}, "epoch": 3}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"damaged, or no file|holds \w+.*could run"):
            read_pickle(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"not a pickle at all", "damaged"),
        (b"epoch,loss\n1,2.5\n", "damaged"),
        (b"# A report", r"no file of torch.save \(Unsupported operand 35\)$"),
        (b"junk" * 9, "damaged"),
        (b"G", "damaged"),
        (pickle.dumps({"model": {}}), "damaged, or no file|no weights"),
    ],
)
def test_a_file_that_is_no_checkpoint_gets_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        convert_reference(tmp_path / "a.pth", tmp_path / "made")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": 1}}, "no tensors but something else at a"),
        ({"optimizer": {}}, "no tensors but|holds no weights"),
        ({"model": {"a": torch.zeros(1)}}, "not the authors' network"),
        ([1, 2], "holds no weights"),
    ],
)
def test_weights_of_something_else_get_one_line(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        convert_reference(tmp_path / "a.pth", tmp_path / "made")


def test_labels_must_be_as_many_as_outputs(
    finetuned: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    with pytest.raises(ValueError, match=r"names 2 classes \(joy, anger\), the network has 3"):
        convert_reference(
            finetuned, tmp_path / "made", sizes=tiny_model_config, labels=["joy", "anger"]
        )


def test_the_command_converts_verifies_describes_and_goes_back(
    finetuned: Path,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes, made = tmp_path / "sizes.yaml", tmp_path / "made"
    save_yaml(sizes, tiny_model_config)
    words = ["checkpoint", "convert", str(finetuned), str(made), "--model", str(sizes)]
    assert main([*words, "--labels", "mafw_43_index"]) == 2  # of a benchmark, by its name
    assert "names 43 classes (helplessness_disappointment, disgust_hel" in capsys.readouterr().err
    assert main([*words, "--labels", "werewolf_xl"]) == 2  # of which labels are numbers
    assert "is a benchmark without classes" in capsys.readouterr().err
    assert main([*words, "--labels", "joy,,fear"]) == 2
    assert "has an empty name" in capsys.readouterr().err
    assert main([*words, "--labels", "joy, anger, fear"]) == 0
    assert "none missing or extra" in capsys.readouterr().out
    assert main(words) == 2
    assert "pass --overwrite to replace it" in capsys.readouterr().err
    assert main(["checkpoint", "verify", str(made), "--tolerance", "-1"]) == 2
    assert "tolerance = -1.0 (must be 0 or more)" in capsys.readouterr().err
    assert main(["checkpoint", "verify", str(made)]) == 0
    assert "digest: the same" in capsys.readouterr().out
    assert main(["checkpoint", "info", str(made), "--json", str(tmp_path / "info.json")]) == 0
    assert "joy, anger, fear" in capsys.readouterr().out
    facts = json.loads((tmp_path / "info.json").read_text())
    assert facts["labels"] == ["joy", "anger", "fear"]
    back = tmp_path / "back.pth"
    assert main(["checkpoint", "export", str(made), str(back)]) == 2
    assert "format onnx is written to a name in .onnx; see --format" in capsys.readouterr().err
    assert main(["checkpoint", "export", str(made), str(back), "--format", "reference"]) == 0
    assert set(read_pickle(back)["model"]) == set(read_pickle(finetuned)["model"])
    assert main([*words, "--overwrite"]) == 0
    (made / "thesis.txt").write_text("years of work")
    assert main([*words, "--overwrite"]) == 2
    assert "thesis.txt beside a checkpoint, and that would be lost" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    words[3] = str(tmp_path / "full")
    assert main([*words, "--overwrite"]) == 2
    assert (tmp_path / "full" / "thesis.txt").is_file()
