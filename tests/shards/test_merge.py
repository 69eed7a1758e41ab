"""Parts are one build: all of them, of the same recordings and settings, and nothing else."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from hicmae.__main__ import main
from shards.building.build import build_shards
from shards.building.merge import merge_shards
from shards.check import check_shards
from shards.index import read_index
from shards.manifest import ManifestRow
from shards.receipts.compare import SAME_CONTENT, compare_preparations, read_preparation
from shards.settings import Part, parse_part
from tests.support.build_fixtures import (
    config,
    digests,
    prepare_here,
    prepared,
    samples,
    write_list,
)

NAMES = ["00", "01x2", "02no", "03", "04x2", "05", "06crash", "07", "08x2", "09", "10", "11"]
SMALL = config(samples_per_shard=2)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve recordings, prepared in this process."""
    prepare_here(monkeypatch, tmp_path / "log")
    return write_list(tmp_path / "in", NAMES)


def build_parts(source: Path, of: int, name: str = "part", **changes: Any) -> list[Path]:
    folders = [source.parent.parent / f"{name}{number}" for number in range(1, of + 1)]
    for number, folder in enumerate(folders, start=1):
        settings = config(**{"samples_per_shard": 2} | changes)
        build_shards([source], folder, settings, part=Part(number=number, of=of))
    return folders


@pytest.mark.parametrize("of", [1, 3, 5, 14])
def test_the_parts_together_have_the_samples_of_the_whole(
    of: int, source: Path, tmp_path: Path
) -> None:
    build_shards([source], tmp_path / "whole", SMALL)
    prepared(tmp_path / "log")
    parts = build_parts(source, of)
    assert prepared(tmp_path / "log") == dict.fromkeys(NAMES, 1)
    before = [digests(part) for part in parts]
    counts = merge_shards(list(reversed(parts)), tmp_path / "out")
    assert [digests(part) for part in parts] == before
    assert (counts["num_samples"], counts["num_recordings"]) == (13, 12)
    assert check_shards(tmp_path / "out") == []
    whole, merged = read_index(tmp_path / "whole"), read_index(tmp_path / "out")
    where = ["shard", "mjpg_offset", "wav_offset", "json_offset"]  # depends on where parts end
    pandas.testing.assert_frame_equal(
        merged.table.drop(columns=where), whole.table.drop(columns=where)
    )
    for key in ("counts", "config", "refused", "ignored", "label_columns", "schema_version"):
        assert merged.info[key] == whole.info[key], key
    assert merged.info.keys() == whole.info.keys()
    refused = [(tmp_path / name / "refused.jsonl").read_text() for name in ("whole", "out")]
    assert refused[0] == refused[1]
    expected, found = samples(tmp_path / "whole"), samples(tmp_path / "out")
    assert expected.keys() == found.keys()
    for key, (info, frames, sound) in expected.items():
        assert found[key][0] == info
        np.testing.assert_array_equal(found[key][1], frames)
        np.testing.assert_array_equal(found[key][2], sound)  # type: ignore[arg-type]
    names = [shard["name"] for shard in merged.info["shards"]]
    for split in ("train", "test"):
        of_split = [name for name in names if name.startswith(split)]
        assert of_split == [f"{split}-{number:06d}.tar" for number in range(len(of_split))]


def test_a_comparison_with_the_whole_names_the_shards_and_no_other_order(
    source: Path, tmp_path: Path
) -> None:
    build_shards([source], tmp_path / "whole", SMALL)
    merge_shards(build_parts(source, 3), tmp_path / "out")
    sides = (read_preparation(tmp_path / name) for name in ("whole", "out"))
    found = compare_preparations(*sides)
    assert found["verdict"] == SAME_CONTENT
    assert found["reasons"] == ["samples are dealt to shards in another way"]


def test_parts_of_one_file_system_take_no_room_twice(source: Path, tmp_path: Path) -> None:
    parts = build_parts(source, 2)
    merge_shards(parts, tmp_path / "out")
    tars = list((tmp_path / "out").glob("*.tar"))
    assert all(tar.stat().st_nlink == 2 for tar in tars)
    shutil.rmtree(parts[0])
    shutil.rmtree(parts[1])
    assert check_shards(tmp_path / "out") == []


def test_shards_are_copied_and_checked_where_they_cannot_be_linked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_disk(*names: Any, **options: Any) -> None:
        raise OSError(errno.EXDEV, "another disk")

    parts = build_parts(source, 2)
    monkeypatch.setattr(os, "link", other_disk)
    merge_shards(parts, tmp_path / "out")
    assert all(tar.stat().st_nlink == 1 for tar in (tmp_path / "out").glob("*.tar"))
    assert check_shards(tmp_path / "out") == []
    shard = parts[1] / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"part2/train-000000\.tar: .*\(sha256\)"):
        merge_shards(parts, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_is_missing_unfinished_or_strange_is_named(source: Path, tmp_path: Path) -> None:
    parts = build_parts(source, 4)
    with pytest.raises(ValueError, match="2 of 4 parts missing: 2, 4; build each with --part NUM"):
        merge_shards([parts[0], parts[2]], tmp_path / "out")
    with pytest.raises(ValueError, match=r"part 1/4 is given twice: .*part1 and .*part1; 1 of 4"):
        merge_shards([parts[0], parts[0], *parts[1:3]], tmp_path / "out")
    parts[3].rename(tmp_path / "part4.partial")
    with pytest.raises(ValueError, match=r"part4\.partial: an unfinished part"):
        merge_shards(parts, tmp_path / "out")
    (tmp_path / "part4.partial").rename(parts[3])
    build_shards([source], tmp_path / "whole", SMALL)
    with pytest.raises(ValueError, match="whole: no part of a build"):
        merge_shards([*parts[:3], tmp_path / "whole"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        merge_shards([tmp_path / "nowhere"], tmp_path / "out")
    (parts[2] / "train-000000.tar").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"part3/train-000000\.tar: has 3 bytes, its index says"):
        merge_shards(parts, tmp_path / "out")
    (parts[2] / "train-000000.tar").unlink()
    with pytest.raises(ValueError, match=r"part3/train-000000\.tar: is missing, its index says"):
        merge_shards(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_of_different_builds_are_refused(source: Path, tmp_path: Path) -> None:
    parts = build_parts(source, 2)
    others = build_parts(source, 2, "other", jpeg_quality=80)
    with pytest.raises(ValueError, match=r"other2 has other settings .* \(jpeg_quality 80 and 90"):
        merge_shards([parts[0], others[1]], tmp_path / "out")
    needs = build_parts(source, 2, "needs", picture="required")
    with pytest.raises(ValueError, match=r"\(picture required and optional\)"):
        merge_shards([parts[0], needs[1]], tmp_path / "out")
    thirds = build_parts(source, 3, "third")
    with pytest.raises(ValueError, match=r"third2 is one of 3 parts, .*part1 one of 2"):
        merge_shards([parts[0], thirds[1]], tmp_path / "out")
    fewer = build_parts(write_list(tmp_path / "in", NAMES[:-1]), 2, "fewer")
    with pytest.raises(ValueError, match=r"fewer2 was built from another list of recordings"):
        merge_shards([parts[0], fewer[1]], tmp_path / "out")


def test_an_earlier_build_is_replaced_only_where_asked(source: Path, tmp_path: Path) -> None:
    parts = build_parts(source, 2)
    merge_shards(parts, tmp_path / "out")
    with pytest.raises(ValueError, match="holds shards already; pass --overwrite"):
        merge_shards(parts, tmp_path / "out")
    before = digests(tmp_path / "out")
    merge_shards(parts, tmp_path / "out", overwrite=True)
    assert digests(tmp_path / "out") == before
    assert not (tmp_path / "out.partial").exists()


def test_a_label_that_is_a_number_in_one_part_and_text_in_another_is_text_as_it_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_here(monkeypatch, tmp_path / "log")
    folder = tmp_path / "in"
    write_list(folder, ["00", "01", "02"])
    lines = [{"path": f"0{n}.mp4", "level": level} for n, level in enumerate((1, 2.5, "high"))]
    (folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parts = []
    for number in (1, 2):
        parts.append(tmp_path / f"part{number}")
        part = Part(number=number, of=2)
        # The first part has two recordings of three: its column is made of numbers.
        monkeypatch.setattr(
            Part, "cut", lambda self, rows: rows[:2] if self.number == 1 else rows[2:]
        )
        build_shards([folder / "list.jsonl"], parts[-1], SMALL, part=part)
    merge_shards(parts, tmp_path / "out")
    build_shards([folder / "list.jsonl"], tmp_path / "whole", SMALL)
    for name in ("whole", "out"):
        assert read_index(tmp_path / name).table["level"].tolist() == ["1", "2.5", "high"]
        assert check_shards(tmp_path / name) == []


def test_parts_follow_one_another_and_miss_nothing() -> None:
    rows = [ManifestRow(key=str(n), path=Path(str(n)), name=str(n)) for n in range(10)]
    for of in (1, 3, 7, 12):
        cut = [Part(number=number, of=of).cut(rows) for number in range(1, of + 1)]
        assert [row for part in cut for row in part] == rows
        assert max(map(len, cut)) - min(map(len, cut)) <= 1
    assert parse_part("2/8") == Part(number=2, of=8)
    assert str(Part(number=2, of=8)) == "2/8"
    for text in ("0/8", "9/8", "2", "2/", "a/b", "-1/3", "1/0"):
        with pytest.raises(ValueError, match="part = "):
            parse_part(text)


def test_the_command_joins_and_names_what_is_missing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["shards", "build", str(source), "--faces", "none", "--samples_per_shard", "2"]
    for number in (1, 2):
        part = ["--part", f"{number}/2", "--out", str(tmp_path / f"part{number}")]
        assert main([*words, *part]) == 0
    out = ["--out", str(tmp_path / "out")]
    assert main(["shards", "merge", str(tmp_path / "part2"), *out]) == 2
    assert "1 of 2 parts missing: 1; " in capsys.readouterr().err
    folders = [str(tmp_path / f"part{number}") for number in (1, 2)]
    assert main(["shards", "merge", *folders, *out]) == 0
    assert "13 samples (0.00 hours) from 12 recordings in 2 parts: " in capsys.readouterr().out
