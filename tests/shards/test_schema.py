"""The description of a sample: what is written is read back, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from typing import Any

import pytest

from shards.schema import (
    SampleInfo,
    ShardError,
    SourceFile,
    blocks_of,
    is_safe_key,
    parse_sample_json,
    reread_sample_json,
    sample_json,
)
from tests.support.shard_fixtures import make_sample


def info(**changes: Any) -> SampleInfo:
    return dataclasses.replace(make_sample(3, num_frames=5)[0], **changes)


def changed(**changes: Any) -> bytes:
    """The json of a sample with other fields; a None removes one."""
    raw = json.loads(sample_json(info())) | changes
    return json.dumps({name: value for name, value in raw.items() if value != "gone"}).encode()


FACES = json.loads(changed())["faces"]


def test_a_sample_of_version_2_is_read_as_it_was_and_written_as_it_was() -> None:
    old = changed(schema_version=2, faces=FACES | {"found_by": [["given", 3], ["held", 2]]})
    for read in (parse_sample_json, reread_sample_json):
        sample = read(old, "here")
        assert sample.faces.found_by == (("given", 3), ("held", 2))
        assert json.loads(sample_json(sample)) == json.loads(old)
    new = json.loads(sample_json(dataclasses.replace(sample, schema_version=3)))
    assert new["faces"]["found_by"] == [
        {"count": 3, "how": "given"},
        {"count": 2, "how": "held"},
    ]


def test_a_sample_is_read_back_as_it_was_written() -> None:
    sample = info(
        labels={"emotion": "Freude", "fold": 2, "valence": -0.5, "acted": True}, speaker=None
    )
    assert parse_sample_json(sample_json(sample), "here") == sample
    assert reread_sample_json(sample_json(sample), "here") == sample


def test_what_was_done_with_pictures_is_said_only_where_something_was() -> None:
    assert b'"picture"' not in sample_json(info())
    sample = info(picture={"pixel_aspect": "4:3", "deinterlaced": True})
    assert parse_sample_json(sample_json(sample), "here") == sample
    assert reread_sample_json(sample_json(sample), "here") == sample


def test_a_sample_with_a_sound_file_of_its_own_is_read_back() -> None:
    sample = info(sound_source=SourceFile(path="3.wav", sha256="1" * 64, bytes=7), sound="silent")
    assert parse_sample_json(sample_json(sample), "here") == sample
    assert reread_sample_json(sample_json(sample), "here") == sample


@pytest.mark.parametrize(
    "data",
    [
        changed(schema_version=1),
        changed(schema_version="gone"),
        changed(fps="gone"),
        changed(colour="red"),
        changed(source={"path": "a", "bytes": 1}),
        changed(faces={"policy": 1}),
        changed(digests=None),
        b"{",
        b"[1]",
    ],
)
def test_what_another_version_wrote_is_named_although_its_bytes_are_proven(data: bytes) -> None:
    with pytest.raises(ShardError) as checked:
        parse_sample_json(data, "here")
    with pytest.raises(ShardError) as reread:
        reread_sample_json(data, "here")
    assert str(reread.value) == str(checked.value)


def test_the_json_is_plain_and_has_what_the_design_promises() -> None:
    raw = json.loads(sample_json(info()))
    assert raw["schema_version"] == 3
    assert raw["source"] == {"path": "id03/00003.mp4", "sha256": "0" * 64, "bytes": 1}
    assert len(raw["frame_offsets"]) == raw["num_frames"] + 1 == 6
    assert raw["num_samples"] == 3200


def test_a_number_that_is_none_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        sample_json(info(labels={"valence": float("nan")}))


@pytest.mark.parametrize("length", [5, 99, 100, 101, 200])
def test_the_blocks_of_a_sample_begin_with_its_header_however_long_its_name(length: int) -> None:
    file, first = io.BytesIO(), "a" * (length - 5) + ".mjpg"
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in ("x.json", first, "last.json"):
            member = tarfile.TarInfo(name)
            member.size = 700
            tar.addfile(member, io.BytesIO(bytes(700)))
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        before, one, last = tar.getmembers()
    end = before.offset_data + 1024
    assert blocks_of(first, one.offset_data, last.offset_data + 700) == (
        end,
        last.offset_data + 1024,
    )


def test_the_same_sample_gives_the_same_bytes_whatever_the_order_of_its_labels() -> None:
    assert sample_json(info(labels={"a": 1, "b": 2})) == sample_json(info(labels={"b": 2, "a": 1}))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"schema_version": 1},
            "schema version 1, this program reads 2 and 3; build these shards again",
        ),
        ({"loudness_db": "loud"}, 'loudness_db is "loud" (must be float | None)'),
        ({"schema_version": "gone"}, "schema version None"),
        ({"fps": "gone"}, "no field fps"),
        ({"colour": "red"}, "unknown field colour"),
        ({"num_frames": "five"}, 'num_frames is "five" (must be int)'),
        ({"num_frames": True}, "num_frames is true"),
        ({"frame_offsets": [0, 5, 4, 9, 10, 11]}, "frame_offsets do not ascend"),
        ({"frame_offsets": [0, 5]}, "2 frame_offsets"),
        ({"frame_offsets": [0, 1, 2, 3, 4, "x"]}, "not all whole numbers"),
        ({"frame_offsets": [0, 1, 2, 3, 4, 5.0]}, "not all whole numbers"),
        ({"frame_offsets": [False, 1, 2, 3, 4, 5]}, "not all whole numbers"),
        ({"frame_offsets": [0, 1, 2, 3, 4, 4]}, "frame_offsets do not ascend"),
        ({"frame_offsets": []}, "0 frame_offsets"),
        ({"sound": "loud"}, "sound 'loud' (allowed: present, absent, silent, shorter)"),
        ({"sound": "absent"}, "sound is absent but num_samples is 3200"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"padded_samples": 3201}, "padded_samples 3201 of 3200"),
        ({"source": {"path": "a", "bytes": 1}}, "no field source.sha256"),
        ({"faces": {"policy": 1}}, "no field faces.detector"),
        ({"faces": FACES | {"found_by": [["given", 5]]}}, "faces.found_by is no list of {"),
        ({"faces": FACES | {"found_by": [{"how": "x", "count": 1.5}]}}, "faces.found_by is no"),
        ({"faces": FACES | {"found_by": [{"how": "x", "count": 1, "n": 1}]}}, "faces.found_by"),
        ({"schema_version": 2}, "faces.found_by is no list of [how, count]"),
        ({"key": "a.b"}, "key 'a.b'"),
        ({"fps": 0}, "each must be positive"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ShardError) as error:
        parse_sample_json(changed(**changes), "train-000000.tar: sample 'x'")
    assert str(error.value).startswith("train-000000.tar: sample 'x': ")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[1]"])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(ShardError, match="its json"):
        parse_sample_json(data, "here")


@pytest.mark.parametrize("key", ["a", "id01/0001", "_-dash-", "A-000", "x" * 200])
def test_keys_of_letters_digits_and_slashes_are_safe(key: str) -> None:
    assert is_safe_key(key)


@pytest.mark.parametrize(
    "key", ["", "a.b", "-a", "/a", "a/", "a//b", "a b", "é", "../a", "a\n", "x" * 201]
)
def test_other_keys_are_not(key: str) -> None:
    assert not is_safe_key(key)
