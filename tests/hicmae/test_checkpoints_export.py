"""Exported networks give PyTorch's logits for any number of clips, and carry their labels."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hicmae.__main__ import main
from hicmae.checkpoints import export
from hicmae.checkpoints.checkpoint import Labels, load_checkpoint
from hicmae.checkpoints.portable import make_probe
from hicmae.config import from_dict, to_dict
from hicmae.emotion import EmotionModel, Modalities, clip_values, outputs_to_values
from hicmae.heads import HeadLabels, output_names
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig
from tests.support.prediction_fixtures import write_checkpoint


@pytest.fixture(scope="module")
def sizes(tiny_model_config: ModelConfig) -> ModelConfig:
    """Of one layer each: what takes long is tracing them."""
    return replace(tiny_model_config, encoder_depth=1, feature_layers=(1,))


def saved(folder: Path, sizes: ModelConfig, modalities: Modalities = "audio-video") -> EmotionModel:
    names = ["joy", "anger", "fear"]
    write_checkpoint(folder, sizes, names=names, modalities=modalities)
    return EmotionModel.from_pretrained(folder)


def clips(network: EmotionModel, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    probes = [make_probe(network, seed=100 + seed) for seed in range(num)]
    video = torch.cat([probe["input.video"] for probe in probes])
    return video, torch.cat([probe["input.fbank"] for probe in probes])


@pytest.mark.slow
def test_torch_export_gives_the_same_logits_for_any_number_of_clips(
    tmp_path: Path, sizes: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    network = saved(tmp_path / "made", sizes, "video")
    out = tmp_path / "made.pt2"
    words = ["checkpoint", "export", str(tmp_path / "made"), str(out)]
    assert main([*words, "--format", "torch"]) == 0
    assert "largest difference of a logit" in capsys.readouterr().out
    files = {"config.json": ""}
    loaded = torch.export.load(out, extra_files=files).module()
    for num in (1, 4):
        video, _ = clips(network, num)
        torch.testing.assert_close(loaded(video), network(video, None), atol=1e-4, rtol=0)
    assert json.loads(files["config.json"])["labels"]["names"] == ["joy", "anger", "fear"]
    assert main([*words, "--format", "torch"]) == 2
    assert "pass --overwrite to replace it" in capsys.readouterr().err


@pytest.mark.slow
def test_several_heads_are_exported_with_what_their_outputs_stand_for(
    tmp_path: Path, sizes: ModelConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = (
        HeadLabels(name="emotion", kind="classification", names=("joy", "anger")),
        HeadLabels(name="tags", kind="multilabel", names=("loud", "fast"), thresholds=(0.3, 0.6)),
        HeadLabels(name="level", kind="ordinal", names=("little", "some", "much")),
        HeadLabels(
            name="blend",
            kind="distribution",
            names=("joy", "fear", "calm"),
            thresholds=(0.2, 0.1),
            unblended="calm",
        ),
        HeadLabels(name="real", kind="regression", names=("valence",)),
    )
    names, count = output_names(heads), len(output_names(heads))
    scale = {"mean": (0.0,) * (count - 1) + (0.4,), "std": (1.0,) * (count - 1) + (2.0,)}
    labels = Labels(task="joint", names=names, heads=heads, **scale)
    write_checkpoint(
        tmp_path / "made", sizes, names=names, modalities="audio", labels=to_dict(labels)
    )
    network, out = EmotionModel.from_pretrained(tmp_path / "made"), tmp_path / "made.pt2"
    words = ["checkpoint", "export", str(tmp_path / "made"), str(out), "--format", "torch"]
    assert main(words) == 0, capsys.readouterr().err
    assert "class" not in capsys.readouterr().out  # the largest of all outputs is none
    files = {"config.json": ""}
    loaded = torch.export.load(out, extra_files=files).module()
    _, fbank = clips(network, 3)
    logits = loaded(fbank)
    # What the file says is enough to read its outputs: probabilities, levels, shares and values.
    said = from_dict(Labels, json.loads(files["config.json"])["labels"], "labels")
    assert said == labels
    units = {name: torch.tensor(values) for name, values in scale.items()}
    values = outputs_to_values(logits, task=said.task, heads=said.heads, **units)
    wanted, _ = clip_values(network, None, fbank, task="joint", heads=heads, **units)
    torch.testing.assert_close(values, wanted, atol=1e-4, rtol=0)
    for own in (values[:, :2], values[:, 4:7], values[:, 7:10]):
        torch.testing.assert_close(own.sum(dim=1), torch.ones(3), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def exported(
    tmp_path_factory: pytest.TempPathFactory, sizes: ModelConfig
) -> Callable[[Modalities], tuple[EmotionModel, Path]]:
    """A network and the folder of its checkpoint ``made`` and ``made.onnx``, traced once."""

    @functools.cache
    def make(modalities: Modalities) -> tuple[EmotionModel, Path]:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        folder = tmp_path_factory.mktemp(modalities)
        network = saved(folder / "made", sizes, modalities)
        done = export.export_onnx(load_checkpoint(folder / "made"), folder / "made.onnx")
        assert done.difference < 1e-4
        assert {path.name for path in folder.iterdir()} == {"made", "made.onnx"}
        return network, folder

    return make


def session_of(file: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("modalities", ["audio-video", "audio"])
def test_onnx_gives_the_same_logits_for_any_number_of_clips(
    exported: Callable, modalities: Modalities
) -> None:
    network, folder = exported(modalities)
    session = session_of(folder / "made.onnx")
    names = [item.name for item in session.get_inputs()]
    assert names == {"audio-video": ["video", "fbank"], "audio": ["fbank"]}[modalities]
    for num in (1, 5):
        video, fbank = clips(network, num)
        given = {"video": video.numpy(), "fbank": fbank.numpy()}
        (found,) = session.run(["logits"], {name: given[name] for name in names})
        wanted = network(video, fbank).detach()
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=0)
    config = json.loads(session.get_modelmeta().custom_metadata_map["hicmae"])
    assert config["labels"]["names"] == ["joy", "anger", "fear"]


@pytest.mark.slow
def test_int8_is_smaller_and_says_what_it_costs(
    exported: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, folder = exported("audio-video")
    monkeypatch.setattr(
        export, "_write_onnx", lambda _, __, path: shutil.copy(folder / "made.onnx", path)
    )
    done = export.export_onnx_int8(load_checkpoint(folder / "made"), tmp_path / "int8.onnx")
    assert done.size_ratio < 0.5
    video, fbank = clips(network, 4)
    (found,) = session_of(tmp_path / "int8.onnx").run(
        ["logits"], {"video": video.numpy(), "fbank": fbank.numpy()}
    )
    # A clip says the same alone as beside others, however loud or bright these are.
    loud = {"video": torch.cat([video[:1], 20 * video[1:]]).numpy()}
    loud["fbank"] = torch.cat([fbank[:1], 20 * fbank[1:]]).numpy()
    session = session_of(tmp_path / "int8.onnx")
    (alone,) = session.run(["logits"], {"video": video[:1].numpy(), "fbank": fbank[:1].numpy()})
    (beside,) = session.run(["logits"], loud)
    assert abs(alone[0] - beside[0]).max() < 1e-6
    assert abs(alone[0] - found[0]).max() < 1e-6
    difference = (torch.from_numpy(found) - network(video, fbank)).abs().max().item()
    assert 0 < difference < 10 * done.difference  # it is quantised, and the loss is as measured
    assert 0 < done.difference < 0.5


def test_a_pretrained_network_is_not_exported_as_a_predictor(
    tmp_path: Path, sizes: ModelConfig
) -> None:
    HiCMAE(sizes).save_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match="fine-tune it first"):
        export.export_torch(load_checkpoint(tmp_path / "a"), tmp_path / "a.pt2")


@pytest.mark.parametrize("off", [0.01, float("nan")])
def test_an_export_that_computes_something_else_is_not_kept(
    off: float, tmp_path: Path, sizes: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = saved(tmp_path / "made", sizes)
    wrong = SimpleNamespace(module=lambda: lambda *given: network(*given) + off * torch.eye(1, 3))
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: wrong)
    # Into memory: on a full disk the writer of a file ends the process.
    monkeypatch.setattr(torch.export, "save", lambda _, held, **__: held.write(b"wrong"))
    monkeypatch.setattr(torch.export, "load", lambda path: wrong)
    with pytest.raises(ValueError, match=f"differ from PyTorch's by {off}"):
        export.export_torch(load_checkpoint(tmp_path / "made"), tmp_path / "made.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_without_the_libraries_the_way_to_get_them_is_named(
    tmp_path: Path, sizes: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "made", sizes)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(
        export.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else name
    )
    with pytest.raises(ValueError, match=r"onnxruntime not installed; pip install 'hicmae\[exp"):
        export.export_onnx(load_checkpoint(tmp_path / "made"), tmp_path / "a.onnx")
