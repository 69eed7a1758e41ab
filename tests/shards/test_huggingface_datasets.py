"""Shards are read by the ``webdataset`` builder of Hugging Face's ``datasets``, as the Hub's viewer
does: what the json holds must be types of Arrow.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from shards.schema import FaceInfo, SampleInfo, SourceFile
from tests.support.shard_fixtures import Sample, make_sample, write_shards

RUNS = (("held", 2), ("detected", 20), ("missing", 3))
NUM_SAMPLES = 9  # the first five, which the builder types, are in two shards
LOUD, SOURCE = {"loudness_db": -20.5}, SourceFile(path="a.wav", sha256="0" * 64, bytes=1)


def sample(number: int, **values: Any) -> Sample:
    """A sample whose face was found in three ways."""
    info, mjpg, wav = make_sample(number, labels={"emotion": "joy", "fold": number})
    faces = FaceInfo(policy="largest", detector="yunet", coverage=0.8, found_by=RUNS)
    return dataclasses.replace(info, **({"faces": faces} | values)), mjpg, wav


@pytest.mark.parametrize(
    "differing",
    [
        {},
        # Of one sample among those that the builder looks at; null in the others.
        {2: LOUD | {"sound_source": SOURCE, "speaker": None}},
        {2: {"labels": {"emotion": "joy"}}, 3: {"labels": {}}},
        # Of a sample behind them.
        {8: {"labels": {"emotion": "joy"}}},
    ],
    ids=["all alike", "values of some", "labels of some", "a label that a later one lacks"],
)
def test_load_dataset_reads_every_sample(
    differing: dict[int, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    if importlib.util.find_spec("torchcodec") is None:
        # It is looked for before bytes are kept as they are; no sound is decoded here.
        encoders = types.ModuleType("torchcodec.encoders")
        encoders.AudioEncoder = None  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
        monkeypatch.setitem(sys.modules, "torchcodec.encoders", encoders)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    samples = [sample(number, **differing.get(number, {})) for number in range(NUM_SAMPLES)]
    write_shards(tmp_path / "shards", samples)
    read = datasets.load_dataset(
        "webdataset",
        data_files=sorted(map(str, (tmp_path / "shards").glob("*.tar"))),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    table = read.data.table
    assert table["__key__"].to_pylist() == [info.key for info, _, _ in samples]
    assert table["mjpg"].to_pylist() == [mjpg for _, mjpg, _ in samples]
    assert [wav["bytes"] for wav in table["wav"].to_pylist()] == [wav for _, _, wav in samples]
    for raw, (info, _, _) in zip(table["json"].to_pylist(), samples, strict=True):
        check(raw, info)


def check(raw: dict[str, Any], info: SampleInfo) -> None:
    """What ``datasets`` has of a json is what the sample says."""
    runs = tuple((run["how"], run["count"]) for run in raw["faces"]["found_by"])
    assert runs == info.faces.found_by
    assert tuple(raw["frame_offsets"]) == info.frame_offsets
    assert (raw["speaker"], raw["loudness_db"]) == (info.speaker, info.loudness_db)
    assert {
        name: value for name, value in raw["labels"].items() if value is not None
    } == info.labels
    assert (raw["sound_source"] or {}).get("path") == (info.sound_source and SOURCE.path)
