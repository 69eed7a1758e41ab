"""A receipt says what is in a folder of shards, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import shards.reading.files
import shards.receipts.page
from hicmae.__main__ import main
from shards.index import read_index
from shards.receipts.facts import library_versions, read_facts
from shards.receipts.page import (
    EVENLY_SPREAD,
    LOWEST_COVERAGE,
    SMALLEST_FACES,
    choose,
    receipt_page,
)
from shards.receipts.receipt import (
    RECEIPT_JSON,
    RECEIPT_PAGE,
    RECEIPT_PICTURES,
    make_receipt,
    read_receipt,
    recorded_versions,
    write_receipt,
)
from shards.schema import ShardError
from tests.support.preparations import CONFIG, changed, moving_sample, write_preparation


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven samples: one without sound, one silent, one of low coverage; two refusals."""
    samples = [moving_sample(number, num_frames=20 + 10 * number) for number in range(4)]
    samples.append(moving_sample(4, num_frames=30, coverage=0.5, face_pixels=40.0))
    samples.append(moving_sample(5, num_frames=30, sound=False, labels={}))
    silent = moving_sample(6, num_frames=30, labels={"emotion": "joy", "valence": 0.25})
    samples.append(
        changed(
            silent,
            lambda info: {
                "sound": "silent",
                "loudness_db": None,
                "padded_samples": 1600,
                "split": "test",
                "speaker": None,
            },
        )
    )
    refused = [("b/x.mp4", "no-face"), ("b/y.mp4", "no-face"), ("b/z.mp4", "damaged")]
    return write_preparation(tmp_path / "shards", samples, refused=refused)


def receipt_of(folder: Path) -> dict[str, Any]:
    """The content of receipt.json, without drawing anything."""
    index = read_index(folder)
    return make_receipt(index, read_facts(index), {})


@pytest.fixture(scope="module", autouse=True)
def no_receipt_pictures() -> None:
    """Here they are drawn."""


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receipts without their pictures, which take most of the time."""
    monkeypatch.setattr(shards.receipts.page, "write_pictures", lambda *_: [])


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a receipt."""
    paths = [folder / RECEIPT_JSON, folder / RECEIPT_PAGE, *(folder / RECEIPT_PICTURES).iterdir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_receipt_counts_what_is_there(folder: Path) -> None:
    about = receipt_of(folder)
    assert about["configuration"] == CONFIG
    assert about["counts"]["num_samples"] == 7
    assert about["counts"]["num_frames"] == 20 + 30 + 40 + 50 + 3 * 30
    assert about["counts"]["num_shards"] == 3  # 4 + 2 of train, 1 of test
    assert about["counts"]["num_refused"] == 3
    assert about["counts"]["num_speakers"] == 3
    assert about["counts"]["hours"] == round(230 / 25 / 3600, 4) > 0
    assert about["refused"] == {"damaged": 1, "no-face": 2}
    assert about["splits"]["test"] == {"num_samples": 1, "seconds": 1.2, "num_speakers": 0}
    assert about["labels"]["emotion"]["missing"] == 1
    assert about["labels"]["emotion"]["classes"]["fear"]["num_samples"] == 2
    assert about["labels"]["valence"]["mean"] == 0.25
    assert about["speakers"]["num"] == 3
    assert about["speakers"]["samples_without"] == 1
    assert about["speakers"]["each"]["id00"] == {"num_samples": 2, "seconds": 2.8}
    assert about["sound"]["states"] == {"absent": 1, "present": 5, "silent": 1}
    assert (about["sound"]["num_padded"], about["sound"]["padded_seconds"]) == (1, 0.1)
    assert about["faces"]["found_by"] == {"detected": 220, "missing": 10}


def test_receipt_counts_what_was_done_with_stored_pictures(tmp_path: Path, folder: Path) -> None:
    done = {"pixel_aspect": "4:3", "deinterlaced": True}
    samples = [
        changed(moving_sample(number, num_frames=30), lambda info, done=done: {"picture": done})
        for number, done in enumerate([done, {"tone_mapped": "hlg"}, done, {}])
    ]
    about = receipt_of(write_preparation(tmp_path / "changed", samples))
    expected = {"deinterlaced": 2, "pixel_aspect 4:3": 2, "tone_mapped hlg": 1}
    assert about["pictures"] == expected
    page = shards.receipts.page.receipt_page(about, [], "pictures")
    assert "| tone mapped hlg | 1 samples |" in page
    assert "pictures" not in receipt_of(folder)


def test_distributions_are_those_of_numpy(folder: Path) -> None:
    found = receipt_of(folder)["distributions"]
    seconds = np.array([20, 30, 40, 50, 30, 30, 30]) / 25
    assert found["seconds"]["mean"] == pytest.approx(seconds.mean(), rel=1e-5)
    assert found["seconds"]["sd"] == pytest.approx(seconds.std(), rel=1e-5)
    shares = ["0", "0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99", "1"]
    assert list(found["seconds"]["quantiles"]) == shares
    assert found["seconds"]["quantiles"]["0.25"] == pytest.approx(np.quantile(seconds, 0.25))
    for start, end, count in found["seconds"]["bins"]:
        assert count == ((seconds >= start) & (seconds < end)).sum()
    assert sum(count for *_, count in found["seconds"]["bins"]) == 7
    assert (found["loudness_db"]["num"], found["loudness_db"]["num_missing"]) == (5, 2)
    assert found["face_coverage"]["bins"] == [[0.5, 0.52, 1], [0.98, 1.0, 6]]


@pytest.mark.slow
def test_receipt_is_the_same_bytes_again_and_elsewhere(folder: Path, tmp_path: Path) -> None:
    write_receipt(folder)
    once = contents(folder)
    elsewhere = tmp_path / "an other place"
    folder.rename(elsewhere)
    write_receipt(elsewhere)
    assert contents(elsewhere) == once
    assert json.loads(once[RECEIPT_JSON])["versions"] == library_versions()
    assert set(once) == {
        RECEIPT_JSON,
        RECEIPT_PAGE,
        "receipt/faces.png",
        "receipt/distributions.png",
    }
    assert not list(elsewhere.rglob("*.part"))
    for content in once.values():
        assert str(tmp_path).encode() not in content


def test_what_else_is_beside_the_pictures_of_a_receipt_stays(tmp_path: Path) -> None:
    folder = write_preparation(tmp_path / "shards", [moving_sample(0, num_frames=4)])
    notes = folder / RECEIPT_PICTURES / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("faces 3 and 7 look wrong")
    write_receipt(folder)
    assert notes.read_text() == "faces 3 and 7 look wrong"
    assert {path.name for path in notes.parent.iterdir()} == {
        "notes.txt",
        "faces.png",
        "distributions.png",
    }


def test_content_digest_can_be_computed_by_anyone(tmp_path: Path) -> None:
    """From the jsons alone, as the docstrings describe it."""
    samples = [moving_sample(number, num_frames=10) for number in (2, 0, 1)]
    folder = write_preparation(tmp_path / "shards", samples)
    expected = hashlib.sha256()
    for info, *_ in sorted(samples, key=lambda sample: sample[0].key):
        picture = json.dumps(info.digests.mjpg).encode()
        expected.update(info.key.encode() + b"\0")
        expected.update(hashlib.blake2b(picture, digest_size=16).digest())
    digests = receipt_of(folder)["digests"]
    assert digests["picture"] == expected.hexdigest()
    assert digests["shards"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")
    }


@pytest.mark.parametrize(
    ("change", "aspect"),
    [
        (lambda info: {"labels": {"emotion": "rage"}}, "labels"),
        (lambda info: {"speaker": "someone"}, "labels"),
        (lambda info: {"end_seconds": info.end_seconds + 0.04}, "time"),
        (lambda info: {"padded_samples": 7}, "sound"),
        (lambda info: {"source": type(info.source)(path="o", sha256="f" * 64, bytes=1)}, "source"),
    ],
)
def test_each_digest_tells_of_its_aspect_alone(change, aspect: str, tmp_path: Path) -> None:
    samples = [moving_sample(number, num_frames=8) for number in range(3)]
    other = [*samples[:2], changed(samples[2], change)]
    digests = [
        receipt_of(write_preparation(tmp_path / name, chosen))["digests"]
        for name, chosen in (("a", samples), ("b", other))
    ]
    differ = {name for name in digests[0] if digests[0][name] != digests[1][name]}
    content = {"content"} if aspect != "source" else set()
    assert differ == {aspect, "shards", "ordered_samples"} | content


@pytest.mark.usefixtures("_undrawn")
def test_shares_of_the_longest_speakers_are_of_all_samples(tmp_path: Path) -> None:
    samples = [
        changed(moving_sample(number, num_frames=4), lambda _, n=number: {"speaker": f"p{n // 2}"})
        for number in range(30)
    ]
    folder = write_preparation(tmp_path / "shards", samples)
    write_receipt(folder)
    lines = (folder / RECEIPT_PAGE).read_text().splitlines()
    start = lines.index("| 10 longest speakers | samples | share | minutes |") + 2
    rows = [line.split(" | ") for line in lines[start : start + 10]]
    assert [row[1:3] for row in rows] == [["2", "6.7%"]] * 10  # of 30 samples, 15 speakers


def test_contact_sheet_shows_the_weakest_and_some_of_all(folder: Path) -> None:
    groups = choose(read_index(folder))
    keys = read_index(folder).table["key"]
    assert [keys[row] for row in groups[LOWEST_COVERAGE]] == ["id01/00004"]
    shown = [row for rows in groups.values() for row in rows]
    assert sorted(shown) == list(range(7))  # all of so few, none twice
    assert groups.keys() <= {LOWEST_COVERAGE, SMALLEST_FACES, EVENLY_SPREAD}
    write_receipt(folder)
    page = (folder / RECEIPT_PAGE).read_text()
    # Of low coverage, it is the frame that is most likely a guess: of 10 to 20, number 15.
    assert "| lowest face coverage | `id01/00004` | 15 | 50% of frames |" in page
    assert "(receipt/faces.png)" in page


@pytest.mark.slow
def test_only_the_images_that_are_shown_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [
        moving_sample(number, num_frames=4, face_pixels=50.0 + number) for number in range(60)
    ]
    folder = write_preparation(tmp_path / "shards", samples, samples_per_shard=50)
    decoded = []
    decode = shards.reading.files.decode_frames

    def counting(*arguments):
        decoded.append(arguments)
        return decode(*arguments)

    monkeypatch.setattr(shards.reading.files, "decode_frames", counting)
    write_receipt(folder)
    assert len(decoded) == 8 + 24


def test_one_sample_without_face_sound_label_or_speaker_is_a_receipt_too(tmp_path: Path) -> None:
    bare = moving_sample(0, num_frames=1, sound=False, face_pixels=None, labels={})
    folder = write_preparation(tmp_path / "shards", [changed(bare, lambda info: {"speaker": None})])
    write_receipt(folder)
    about = json.loads((folder / RECEIPT_JSON).read_text())
    for name in ("face_pixels", "loudness_db"):
        assert about["distributions"][name]["mean"] is None
        assert about["distributions"][name]["bins"] == []
    page = (folder / RECEIPT_PAGE).read_text()
    assert "one shard" in page
    assert "No sample has a speaker." in page
    assert "none looked for" in page
    assert "nan" not in page.lower()
    for picture in (folder / RECEIPT_PICTURES).iterdir():
        assert cv2.imread(str(picture)) is not None


def test_label_of_text_with_bars_stays_in_its_cell(tmp_path: Path) -> None:
    sample = moving_sample(0, num_frames=5, labels={"emotion": "a|b", "number": 3})
    about = receipt_of(write_preparation(tmp_path / "shards", [sample]))
    assert "| a\\|b | 1 | 100.0% |" in receipt_page(about, [], RECEIPT_PICTURES)


@pytest.mark.usefixtures("_undrawn")
def test_remade_receipt_keeps_the_libraries_of_the_build(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_receipt(folder, versions={"av": "of the build"})
    assert main(["shards", "receipt", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == f"receipt: {folder / RECEIPT_PAGE}"
    assert recorded_versions(folder) == {"av": "of the build"}
    about = json.loads((folder / "index.json").read_text())
    about["shards"][0]["sha256"] = "0" * 64  # now the receipt is that of other shards
    (folder / "index.json").write_text(json.dumps(about))
    assert recorded_versions(folder) == {}
    assert main(["shards", "receipt", str(folder)]) == 0
    assert "Not known" in (folder / RECEIPT_PAGE).read_text()


def test_a_file_is_no_folder_of_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tar").touch()
    assert main(["shards", "receipt", str(tmp_path / "a.tar")]) == 2
    assert capsys.readouterr().err.endswith("a.tar: no such folder of shards\n")


def test_cut_off_shard_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = folder / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(ShardError, match=r"train-000001\.tar: sample 'id01/00004'"):
        write_receipt(folder)
    assert not (folder / RECEIPT_JSON).exists()
    assert main(["shards", "receipt", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "cannot be read"),
        ("[]", "receipt version None"),
        ('{"receipt_version": 99}', "receipt version 99, this program reads 1"),
        ('{"receipt_version": 1}', "no configuration, counts"),
    ],
)
def test_what_is_no_receipt_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / RECEIPT_JSON
    path.write_text(text)
    with pytest.raises(ShardError, match=message) as error:
        read_receipt(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
