"""What earlier versions wrote: a build, a checkpoint and a fold, read and made again today.

``data/before`` was written at commit 9c12acb, before the house was rebuilt. What does not depend
on a machine's instruction set is compared bit for bit, the outputs of networks to six digits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.checkpoints.networks import build_network
from shards.building.writer import ShardWriter
from shards.index import read_index, write_index
from shards.receipts.facts import sample_infos
from tests.support.shard_fixtures import wav_bytes

BEFORE = Path(__file__).parent / "data" / "before"
# Rows of a report that say which code wrote it.
ABOUT = re.compile(r"\| (commit|version) \|")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of before, in which commands run as they did."""
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_recordings(folder: Path) -> None:
    """Eight folders of images with a sound file each: every pixel and sample is arithmetic."""
    y, x = np.mgrid[:32, :32]
    rows = ["path,speaker,emotion,valence,fold"]
    for k in range(8):
        place = folder / f"rec{k}"
        place.mkdir(parents=True)
        for t in range(18):
            red = abs((x * (3 + k) + t * 5) % 256 - 128) + 64
            green = abs((y * (2 + k % 3) + t * 3 + k * 11) % 256 - 128) + 32
            blue = abs(((x + y) * 2 + k * 29) % 256 - 128)
            pixels = np.stack([red, green, blue], -1).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{t:04d}.png")
        n = np.arange(18 * 16000 // 25)
        sound = ((n * (40 + 7 * k)) % 4001 - 2000) * (1 + n % 1600 // 800)
        (folder / f"rec{k}.wav").write_bytes(wav_bytes(sound))
        emotion = "joy" if k % 2 else "anger"
        rows.append(f"rec{k},speaker{k // 2},{emotion},{k / 8 - 0.5},{k // 4 + 1}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")


def facts(path: Path) -> dict[str, Any]:
    """A JSON file without what speaks of the machine that wrote it."""
    found: dict[str, Any] = json.loads(path.read_text())
    about = ("versions", "version", "commit", "git_commit")
    return {
        name: {key: item for key, item in value.items() if key not in about}
        if isinstance(value, dict)
        else value
        for name, value in found.items()
        if name not in about
    }


def said(path: Path) -> list[str]:
    """Lines of a file up to the configuration, whose spelling has changed, less what names code."""
    lines = itertools.takewhile(lambda line: line != "```yaml", path.read_text().splitlines())
    return [line for line in lines if not ABOUT.match(line)]


@pytest.mark.slow
def test_a_build_gives_the_bytes_that_it_gave_before(
    here: Path, command: Callable[..., Any]
) -> None:
    write_recordings(here / "recordings")
    built = command(
        "shards build recordings/manifest.csv --out now --faces none --face_size 32"
        " --image_fps 25 --workers 1 --samples_per_shard 4"
    )
    assert built.status == 0, built.err
    # Version 3 writes the runs of faces.found_by in another form, and nothing else: the samples of
    # today, written as version 2, are the very files of before, and their index is.
    index = read_index(here / "now")
    (here / "as_2").mkdir()
    with ShardWriter(here / "as_2", samples_per_shard=4) as writer:
        for row, (_, info) in zip(index.table.itertuples(), sample_infos(index), strict=True):
            shard = (here / "now" / row.shard).read_bytes()
            mjpg, wav = (
                shard[offset : offset + length]
                for offset, length in (
                    (row.mjpg_offset, row.mjpg_length),
                    (row.wav_offset, row.wav_length),
                )
            )
            writer.add(dataclasses.replace(info, schema_version=2), mjpg, wav)
    about = {name: facts(here / "now" / name) for name in ("index.json", "receipt.json")}
    write_index(here / "as_2", writer.rows, about["index.json"] | {"shards": writer.shards})
    for name in ("train-000000.tar", "train-000001.tar"):
        assert (here / "as_2" / name).read_bytes() == (here / "shards" / name).read_bytes(), name
    assert (here / "now/refused.jsonl").read_bytes() == (here / "shards/refused.jsonl").read_bytes()
    as_2, before_table, now = (
        pd.read_parquet(here / place / "index.parquet") for place in ("as_2", "shards", "now")
    )
    assert list(now.columns) == list(before_table.columns)
    pd.testing.assert_frame_equal(as_2[before_table.columns], before_table)
    before = {name: facts(here / "shards" / name) for name in about}
    about["index.json"] |= {"shards": writer.shards}
    assert [about[name].pop("schema_version") for name in about] == [3, 3]
    assert [before[name].pop("schema_version") for name in about] == [2, 2]
    for receipts in (about["receipt.json"], before["receipt.json"]):
        receipts["counts"].pop("bytes")
        for digest in (
            "shards",
            "ordered_samples",
            "preparation",
        ):  # of the jsons
            receipts["digests"].pop(digest)
    assert about == before
    compared = command("shards compare now shards")
    assert "verdict: same content" in compared.out
    checked = command("shards check shards")
    assert checked.status == 0, checked.out + checked.err


def test_a_checkpoint_of_before_loads_whole_and_computes_what_it_did() -> None:
    checkpoint = load_checkpoint(BEFORE / "pretrain")
    expected = json.loads((BEFORE / "outputs.json").read_text())
    digest = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        digest.update(name.encode())
        digest.update(checkpoint.tensors[name].contiguous().numpy().tobytes())
    assert digest.hexdigest() == expected["tensors_sha256"]

    network = build_network(checkpoint).eval()

    def ramp(*shape: int, step: int) -> torch.Tensor:
        numbers = torch.arange(int(np.prod(shape))).reshape(shape)
        return ((numbers * step) % 101 / 50 - 1).float()

    video_mask = torch.zeros(2, network.config.num_video_tokens, dtype=torch.bool)
    video_mask.view(2, 8, -1)[:, :, 1:] = True
    fbank_mask = torch.zeros(2, network.config.num_audio_tokens, dtype=torch.bool)
    fbank_mask[:, 2:] = True
    output = network(
        ramp(2, 3, 16, 32, 32, step=7),
        ramp(2, 64, 32, step=13),
        video_mask=video_mask,
        fbank_mask=fbank_mask,
    )
    output.loss.backward()
    squares = [p.grad.double().pow(2).sum() for p in network.parameters() if p.grad is not None]
    norm = torch.stack(squares).sum().sqrt().item()
    assert output.loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    terms = {name: value.item() for name, value in output.terms.items()}
    assert terms == pytest.approx(expected["terms"], rel=1e-5)
    assert norm == pytest.approx(expected["gradient_norm"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_a_fold_of_before_is_known_kept_and_reported_as_it_was(
    here: Path, command: Callable[..., Any]
) -> None:
    done = command(
        "finetune --benchmark bench.yaml --shards shards --checkpoint pretrain --out finetune"
        " --folds 1 --precision 32-true --device cpu --workers 0 --recipe.batch_size 4"
        " --wandb.mode disabled --optimizer.warmup_epochs 0 --resume true"
    )
    assert done.status == 0, done.err
    assert "kept" in done.out
    lacks = "no network was trained for fold '2' of 'before', so these numbers are not of"
    lacks += " all its folds"
    for name in ("predictions.jsonl", "report.md", "fold-1/predictions.jsonl"):
        now, before = (said(place / "finetune" / name) for place in (here, BEFORE))
        if name == "report.md":  # which says more now
            at = now.index(f"**Note.** {lacks}")
            del now[at : at + 2]
        assert now == before, name
    new, old = (facts(place / "finetune/scores.json") for place in (here, BEFORE))
    assert new["run"].pop("notes") == [lacks]
    assert old["run"].pop("notes") == []
    assert new == old


@pytest.mark.usefixtures("no_figures")
def test_a_network_of_before_predicts_what_it_did(here: Path, command: Callable[..., Any]) -> None:
    tested = command(
        "evaluate finetune/fold-1 --shards shards --segments 2 --out again"
        " --device cpu --precision 32-true --workers 0"
    )
    assert tested.status == 0, tested.err

    def views(path: Path) -> np.ndarray:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return np.array([row["views"] for row in sorted(rows, key=lambda row: row["key"])])

    again, before = (views(here / place / "predictions.jsonl") for place in ("again", "finetune"))
    np.testing.assert_allclose(again, before, rtol=1e-4, atol=1e-6)
