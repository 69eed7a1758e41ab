"""Several ``--config`` files in a row: each is laid over the ones before it, key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hicmae.cli import parse
from hicmae.config import merged
from pretrain.run import pretrain


def parsed(tmp_path: Path, *files: str, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    words = ["--data.shards", "x", "--out", "y"]
    for number, text in enumerate(files):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        words += ["--config", str(path)]
    return parse(pretrain, [*words, *extra], program="hicmae pretrain", positional={})


def test_a_later_file_changes_only_what_it_names(tmp_path: Path) -> None:
    found = parsed(
        tmp_path,
        "objective: {temperature: 0.2, contrast_weight: 0.5}\nepochs: 3\n",
        "objective: {contrast_weight: 0.25}\n",
    )
    assert found["objective"].temperature == 0.2
    assert found["objective"].contrast_weight == 0.25
    assert found["epochs"] == 3


def test_changes_to_the_network_are_laid_over_its_size(tmp_path: Path) -> None:
    """The network is a mapping without a fixed set of keys, which files would else replace."""
    base, change = "model: {size: base, fusion_depth: 3}\n", "model: {fusion_depth: 1}\n"
    assert parsed(tmp_path, base, change)["model"] == {"size": "base", "fusion_depth": 1}
    nested = "model: {input: {num_frames: 8}}\n"
    other = "model: {input: {frame_stride: 8}}\n"
    found = parsed(tmp_path, base, nested, other)["model"]
    assert found["input"] == {"num_frames": 8, "frame_stride": 8}
    assert parsed(tmp_path, base, "model: tiny\n")["model"] == "tiny"
    options = ("--model.size", "small")
    found = parsed(tmp_path, base, change, extra=options)["model"]
    assert found == {"size": "small", "fusion_depth": 1}


def test_merging_touches_neither_mapping() -> None:
    start, changes = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": {"e": 4}}
    assert merged(start, changes) == {"a": {"b": 9, "c": 2}, "d": {"e": 4}}
    assert start == {"a": {"b": 1, "c": 2}, "d": 3}
    assert changes == {"a": {"b": 9}, "d": {"e": 4}}
