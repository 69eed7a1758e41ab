"""Tests of what is bad in shards: found, named, and left out or raised; never seen as good."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from shards.index import read_index
from shards.reading.random_access import ShardDataset
from shards.schema import SCHEMA_VERSION, ClipError, ShardError, sample_json
from tests.support.shard_fixtures import INPUT, SIDE, make_sample, rewrite_shard, write_shards
from tests.support.stream_fixtures import (
    NUM_SAMPLES,
    first_batches,
    keys_of,
    loader,
    one_epoch,
    skipped_in,
    stream_of,
    tar,
)

KEY = "id00/00005"  # second of the four in train-000001.tar


@pytest.fixture
def folder(copied_shards: Path) -> Path:
    return copied_shards


def wrong_version(folder: Path) -> None:
    info, _, _ = make_sample(5)
    version = b'"schema_version":%d' % SCHEMA_VERSION
    wrong = sample_json(info).replace(version, b'"schema_version":9')
    rewrite_shard(tar(folder, 1), {f"{KEY}.json": wrong})


def overwrite(folder: Path, member: str, skip: int, data: bytes) -> None:
    """Write over bytes of a member of the sample, or of its header (before 0)."""
    table = read_index(folder).table
    offset = int(table.loc[table["key"] == KEY, f"{member}_offset"].iloc[0])
    with tar(folder, 1).open("r+b") as file:
        file.seek(offset + skip)
        file.write(data)


def flipped_image(folder: Path) -> None:
    overwrite(folder, "mjpg", 400, b"\x55")


def flipped_sound(folder: Path) -> None:
    overwrite(folder, "wav", 31000, b"\x55\xaa")


def other_sound_of_another_length(folder: Path) -> None:
    rewrite_shard(tar(folder, 1), {f"{KEY}.wav": b"ID3" + b"\0" * 100})


def no_json(folder: Path) -> None:
    rewrite_shard(tar(folder, 1), {f"{KEY}.json": None})


def no_images(folder: Path) -> None:
    rewrite_shard(tar(folder, 1), {f"{KEY}.mjpg": None})


def no_sound(folder: Path) -> None:
    rewrite_shard(tar(folder, 1), {f"{KEY}.wav": None})


def nothing(folder: Path) -> None:
    rewrite_shard(tar(folder, 1), {f"{KEY}.{x}": None for x in ("mjpg", "wav", "json")})


def damaged_header(folder: Path) -> None:
    overwrite(folder, "mjpg", -512, b"\xff\xff\xff")


def truncated_in_a_member(folder: Path) -> None:
    path = tar(folder, 1)
    with tarfile.open(path) as file:
        offset = file.getmember(f"{KEY}.wav").offset_data
    path.write_bytes(path.read_bytes()[: offset + 1000])


def truncated_between_members(folder: Path) -> None:
    path = tar(folder, 1)
    with tarfile.open(path) as file:
        offset = file.getmember(f"{KEY}.mjpg").offset
    path.write_bytes(path.read_bytes()[:offset])


def no_shard(folder: Path) -> None:
    tar(folder, 1).unlink()


DAMAGES = {
    wrong_version: ("bad-json", 1, f"'{KEY}': schema version 9"),
    flipped_image: ("bad-digest", 1, f"'{KEY}': its mjpg is not the one that was built"),
    flipped_sound: ("bad-digest", 1, f"'{KEY}': its wav is not the one that was built"),
    other_sound_of_another_length: ("bad-digest", 1, rf"'{KEY}': its wav .*, 103 bytes\)"),
    no_json: ("missing-member", 1, rf"'{KEY}' has no json member \(found mjpg, wav\)"),
    no_images: ("missing-member", 1, rf"'{KEY}' has no mjpg member \(found wav, json\)"),
    no_sound: ("missing-member", 1, rf"'{KEY}' has no wav member \(found mjpg, json\)"),
    nothing: ("missing-member", 1, rf"'{KEY}' has no json member \(found none of it\)"),
    damaged_header: ("truncated", 1, f"'{KEY}': its mjpg cannot be found, .* after 3 members"),
    truncated_in_a_member: ("truncated", 3, "'id0[012]/0000[567]': json: its shard is truncated"),
    truncated_between_members: ("truncated", 3, "'id0[012]/0000[567]': json: its shard is"),
    no_shard: ("missing-shard", 4, "no such shard"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_what_is_damaged_is_counted_by_cause_or_named_by_both_readers(
    folder: Path, damage: Any
) -> None:
    cause, count, message = DAMAGES[damage]
    damage(folder)
    batches = one_epoch(folder)
    assert skipped_in(batches) == {cause: count}
    assert len(set(keys_of(batches))) == len(keys_of(batches)) == NUM_SAMPLES - count
    with pytest.raises(ShardError, match=f"^{folder}/train-000001.tar: .*{message}") as error:
        one_epoch(folder, on_bad="raise")
    assert "\n" not in str(error.value)
    dataset = ShardDataset(read_index(folder), input=INPUT, on_bad="skip")
    items = [dataset[number] for number in range(NUM_SAMPLES)]
    assert [item.cause for item in items if not isinstance(item, dict)] == [cause] * count
    strict = ShardDataset(read_index(folder), input=INPUT)
    with pytest.raises(ShardError, match=f"^{folder}/train-000001.tar: .*{message}"):
        strict[list(strict.rows["key"]).index(KEY)]


def test_what_is_skipped_makes_its_own_batch_smaller_and_shifts_no_other(
    six_shards: Path, folder: Path
) -> None:
    flipped_image(folder)
    whole = first_batches(stream_of(six_shards), 6)
    for batch, expected in zip(first_batches(stream_of(folder), 6), whole, strict=True):
        assert batch["keys"] == [key for key in expected["keys"] if key != KEY]
        assert batch["skipped"] == ({"bad-digest": 1} if KEY in expected["keys"] else {})
        assert len(batch["frames"]) == len(batch["keys"])
        kept = [number for number, key in enumerate(expected["keys"]) if key != KEY]
        assert (batch["frames"] == expected["frames"][kept]).all()


def test_a_share_of_bad_samples_is_an_empty_batch_and_ranks_stay_in_step(folder: Path) -> None:
    no_shard(folder)
    options = {"batch_size": 2, "shuffle_shards": 0, "world_size": 2}
    shares = [first_batches(stream_of(folder, rank=rank, **options), 6) for rank in range(2)]
    assert [len(share) for share in shares] == [6, 6]
    (empty, *_) = [batch for share in shares for batch in share if not batch["keys"]]
    assert empty["frames"].shape == (0, INPUT.num_frames, SIDE, SIDE, 3)
    assert empty["waveform"].shape == (0, INPUT.clip_samples)
    assert empty["num_samples"].shape == (0,)
    assert sum((skipped_in(share) for share in shares), skipped_in([])) == {"missing-shard": 4}


def test_all_clips_of_a_bad_sample_are_left_out(folder: Path) -> None:
    flipped_image(folder)
    batches = one_epoch(folder, batch_size=2, clips_per_sample=2)
    assert len(keys_of(batches)) == 2 * (NUM_SAMPLES - 1)
    assert skipped_in(batches) == {"bad-digest": 1}


def test_worker_processes_count_too_and_their_error_stays_one_line(folder: Path) -> None:
    no_json(folder)
    batches = one_epoch(folder, workers=2)
    assert skipped_in(batches) == {"missing-member": 1}
    iterator = iter(loader(stream_of(folder, on_bad="raise"), 2))
    with pytest.raises(ShardError) as error:
        list(iterator)
    for process in iterator._workers:  # after an error torch would wait 5 s for each
        process.terminate()
    assert str(error.value) == (
        f"{folder}/train-000001.tar: sample 'id00/00005' has no json member (found mjpg, wav);"
        " rebuild it"
    )


def test_samples_without_sound_follow_the_policy(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(number, sound=number % 3 > 0) for number in range(6)])
    # The index tells of them: batches are full, and the first of an epoch counts them.
    batches = one_epoch(tmp_path, batch_size=2)
    assert [len(batch["keys"]) for batch in batches] == [2, 2]
    assert [batch["skipped"] for batch in batches] == [{"no-sound": 2}, {}]
    batches = one_epoch(tmp_path, sound="optional")
    silent = {
        key: int(count)
        for batch in batches
        for key, count in zip(batch["keys"], batch["num_samples"], strict=True)
        if not count
    }
    assert silent == {"id00/00000": 0, "id03/00003": 0}
    message = (
        rf"^{tmp_path}/train-000000.tar: sample 'id00/00000' has no wav member "
        r"\(found mjpg, json\); rebuild it or pass .*$"
    )
    with pytest.raises(ShardError, match=message):
        one_epoch(tmp_path, on_bad="raise")


def test_a_folder_without_any_sound_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(number, sound=False) for number in range(3)])
    with pytest.raises(
        ClipError, match=r"no sample of split 'train' has picture and sound \(3 were left out"
    ):
        one_epoch(tmp_path)


def test_a_folder_of_sound_alone_is_refused_with_the_remedy_for_pictures(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0, picture=False)])
    with pytest.raises(ClipError, match=r"\(1 were left out\); pass picture: optional$"):
        one_epoch(tmp_path)


def test_a_folder_with_nothing_readable_raises_in_the_end(folder: Path) -> None:
    for path in folder.glob("*.tar"):
        path.unlink()
    message = rf"8 samples one after another were skipped \(missing-shard: 8\), the last: {folder}"
    with pytest.raises(ClipError, match=message):
        list(stream_of(folder))


def test_samples_of_unlike_size_are_refused_by_name(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0), make_sample(1, side=48)])
    with pytest.raises(ValueError, match=r"differ in size \('id0.*build all shards with one face"):
        one_epoch(tmp_path, batch_size=2)


def test_an_index_that_points_outside_of_a_shard_is_refused(folder: Path) -> None:
    text = (folder / "index.json").read_text()
    size = read_index(folder).info["shards"][1]["bytes"]
    (folder / "index.json").write_text(text.replace(f'"bytes": {size}', '"bytes": 99999', 1))
    with pytest.raises(ValueError, match="outside of its shard train-00000"):
        one_epoch(folder)
