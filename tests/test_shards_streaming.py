"""Tests of the streaming reader: order, splitting over readers, and what is bad."""

from __future__ import annotations

import itertools
import pickle
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shard_fixtures import INPUT, SIDE, frame_value, make_sample, rewrite_shard, write_shards

from shards.errors import ClipError
from shards.schema import ShardError, sample_json
from shards.streaming import ClipStream, StreamConfig, clip_stream

NUM_SAMPLES = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of 23 samples."""
    samples = [make_sample(number) for number in range(NUM_SAMPLES)]
    return write_shards(tmp_path_factory.mktemp("shards"), samples)


@pytest.fixture(scope="module")
def few_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples in two shards."""
    samples = [make_sample(number) for number in range(NUM_SAMPLES)]
    return write_shards(tmp_path_factory.mktemp("few"), samples, samples_per_shard=12)


@pytest.fixture(scope="module")
def one_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same samples in a single shard."""
    samples = [make_sample(number) for number in range(NUM_SAMPLES)]
    return write_shards(tmp_path_factory.mktemp("one"), samples, samples_per_shard=100)


def one_epoch(folder: Path, epoch: int = 0, **options: Any) -> ClipStream:
    config = {name: options.pop(name) for name in ("sound", "on_bad", "split") if name in options}
    return clip_stream(
        folder,
        INPUT,
        StreamConfig(batch_size=4, shuffle_buffer=8, **config),
        seed=options.pop("seed", 0),
        infinite=False,
        first_epoch=epoch,
        **options,
    )


def keys_of(batches: Any) -> list[str]:
    return [key for batch in batches for key in batch["keys"]]


def loader(stream: ClipStream, workers: int, **options: Any) -> Any:
    return torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers, **options)


def readers_keys(folder: Path, epoch: int, workers: int = 2) -> list[tuple[str, ...]]:
    """Keys that each of 2 ranks x ``workers`` loader processes meets."""
    shares = []
    for rank in range(2):
        by_worker: dict[int, list[str]] = {}
        stream = one_epoch(folder, epoch, rank=rank, world_size=2)
        for batch in loader(_Marked(stream), workers):
            by_worker.setdefault(batch["worker"], []).extend(batch["keys"])
        shares += [tuple(by_worker.get(worker, ())) for worker in range(workers)]
    return shares


class _Marked(torch.utils.data.IterableDataset[dict[str, Any]]):
    """Says in each batch which worker made it."""

    def __init__(self, stream: ClipStream) -> None:
        self.stream = stream

    def __iter__(self) -> Any:
        info = torch.utils.data.get_worker_info()
        for batch in self.stream:
            yield batch | {"worker": info.id if info else 0}


@pytest.mark.parametrize("shards", ["folder", "few_shards", "one_shard"])
def test_each_sample_is_seen_once_an_epoch_over_ranks_and_workers(
    shards: str, request: pytest.FixtureRequest
) -> None:
    shares = readers_keys(request.getfixturevalue(shards), epoch=0)
    assert len(shares) == 4
    assert all(shares)
    counts = Counter(itertools.chain(*shares))
    assert len(counts) == NUM_SAMPLES
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_two_workers_share_a_single_shard_however_they_are_started(
    one_shard: Path, start_method: str
) -> None:
    batches = loader(one_epoch(one_shard), 2, multiprocessing_context=start_method)
    keys = keys_of(batches)
    assert len(keys) == NUM_SAMPLES
    assert len(set(keys)) == NUM_SAMPLES


@pytest.mark.parametrize("shards", ["folder", "few_shards", "one_shard"])
def test_another_epoch_has_another_order_and_other_readers(
    shards: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(shards)
    first, second = readers_keys(folder, epoch=0), readers_keys(folder, epoch=1)
    assert sorted(itertools.chain(*first)) == sorted(itertools.chain(*second))
    # Not merely another order within a reader: it meets other samples.
    assert {frozenset(share) for share in first} != {frozenset(share) for share in second}
    assert first == readers_keys(folder, epoch=0)


def test_shards_are_not_always_dealt_to_the_same_reader(folder: Path) -> None:
    shares = {
        frozenset(keys_of(one_epoch(folder, epoch, rank=0, world_size=2))) for epoch in range(6)
    }
    assert len(shares) > 3


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(folder: Path) -> None:
    first, again, other = (list(one_epoch(folder, seed=seed)) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        assert a["keys"] == b["keys"]
        assert torch.equal(a["frames"], b["frames"])
        assert torch.equal(a["waveform"], b["waveform"])
    assert keys_of(first) != keys_of(other)


def test_the_clip_of_a_sample_does_not_depend_on_who_reads_it_but_on_the_epoch(
    folder: Path,
) -> None:
    def starts(epoch: int, ranks: int) -> dict[str, int]:
        return {
            key: int(waveform[0])
            for rank in range(ranks)
            for batch in one_epoch(folder, epoch, rank=rank, world_size=ranks)
            for key, waveform in zip(batch["keys"], batch["waveform"], strict=True)
        }

    assert starts(0, 1) == starts(0, 3)
    assert starts(0, 1) != starts(1, 1)


def test_picture_and_sound_of_every_clip_are_of_its_key_and_of_one_time(folder: Path) -> None:
    for batch in one_epoch(folder):
        assert batch["frames"].shape[1:] == (4, SIDE, SIDE, 3)
        for number, key in enumerate(batch["keys"]):
            sample = int(key.split("/")[1])
            first_sound = int(batch["waveform"][number, 0]) - 1 - 101 * sample
            frame, rest = divmod(first_sound, 640)
            assert rest == 0
            for place in range(INPUT.num_frames):
                expected = frame_value(sample, min(24, frame + place * INPUT.frame_stride))
                np.testing.assert_allclose(batch["frames"][number, place, 0, 0], expected, atol=3)
            assert batch["num_samples"][number] == min(INPUT.clip_samples, 16000 - first_sound)


def test_an_endless_stream_carries_batches_over_the_end_of_an_epoch(folder: Path) -> None:
    stream = clip_stream(folder, INPUT, StreamConfig(batch_size=5, shuffle_buffer=8), seed=0)
    batches = list(itertools.islice(stream, 2 * NUM_SAMPLES // 5))
    assert {len(batch["keys"]) for batch in batches} == {5}
    counts = Counter(keys_of(batches))
    assert len(counts) == NUM_SAMPLES
    assert max(counts.values()) == 2
    # 45 of the 46 clips of two epochs: the first epoch is whole before the second begins.
    assert len(set(keys_of(batches)[:NUM_SAMPLES])) == NUM_SAMPLES


def test_an_endless_stream_begins_with_the_epoch_asked_for(folder: Path) -> None:
    config = StreamConfig(batch_size=4, shuffle_buffer=8)
    stream = clip_stream(folder, INPUT, config, seed=0, first_epoch=3)
    assert keys_of(itertools.islice(stream, 5)) == keys_of(one_epoch(folder, 3))[:20]


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_hear_of_a_new_epoch(folder: Path, workers: int) -> None:
    stream = one_epoch(folder)
    batches = loader(stream, workers, persistent_workers=workers > 0)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        orders.append(keys_of(batches))
    assert orders[0] == orders[2] != orders[1]


def test_a_stream_can_be_pickled(folder: Path) -> None:
    stream = one_epoch(folder, 2)
    copy = pickle.loads(pickle.dumps(stream))
    assert keys_of(copy) == keys_of(stream)


def test_the_rank_comes_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert keys_of(one_epoch(folder)) == keys_of(one_epoch(folder, rank=1, world_size=2))


def test_a_stream_made_before_its_process_group_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = one_epoch(folder)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="made as rank 0 of 1, before the process group"):
        next(iter(stream))


def test_fewer_samples_than_readers_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0), make_sample(1)])
    with pytest.raises(ClipError, match=r"2 samples for 3 readers \(ranks x workers\)"):
        next(iter(one_epoch(tmp_path, rank=0, world_size=3)))


def test_several_folders_and_one_split_are_read(tmp_path: Path) -> None:
    first = write_shards(tmp_path / "a", [make_sample(0), make_sample(1, split="test")])
    second = write_shards(tmp_path / "b", [make_sample(2)])
    stream = clip_stream([first, second], INPUT, StreamConfig(), seed=0, infinite=False)
    assert sorted(keys_of(stream)) == ["id00/00000", "id02/00002"]
    assert stream.num_samples == 2
    assert keys_of(one_epoch(first, split="test")) == ["id01/00001"]
    assert len(keys_of(one_epoch(first, split="all"))) == 2
    with pytest.raises(ValueError, match="no samples of split 'val' \\(found test, train\\)"):
        one_epoch(first, split="val")


def test_another_frame_rate_is_refused_before_reading(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(0), make_sample(1, fps=30.0)])
    with pytest.raises(ValueError, match=r"1 samples, 'id01/00001' first, have 30 frames a second"):
        one_epoch(tmp_path)


def test_impossible_settings_are_refused_all_at_once() -> None:
    with pytest.raises(ValueError, match=r"batch_size = 0.*shuffle_buffer = -1.*sound = loud"):
        StreamConfig(batch_size=0, shuffle_buffer=-1, sound="loud")  # type: ignore[arg-type]


def test_samples_without_sound_follow_the_policy(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(number, sound=number % 3 > 0) for number in range(6)])
    batches = list(one_epoch(tmp_path))
    assert len(keys_of(batches)) == 4
    assert sum((Counter(batch["skipped"]) for batch in batches), Counter()) == {"no-sound": 2}
    batches = list(one_epoch(tmp_path, sound="optional"))
    silent = {
        key: int(count)
        for batch in batches
        for key, count in zip(batch["keys"], batch["num_samples"], strict=True)
        if not count
    }
    assert silent == {"id00/00000": 0, "id03/00003": 0}
    message = (
        r"^train-00000[01].tar: sample 'id0[03]/0000[03]' has no wav member \(found mjpg, json\); "
        r"rebuild it or pass .*$"
    )
    with pytest.raises(ShardError, match=message):
        list(one_epoch(tmp_path, on_bad="raise"))


def _wrong_version(folder: Path) -> None:
    info, _, _ = make_sample(5)
    wrong = sample_json(info).replace(b'"schema_version":1', b'"schema_version":9')
    rewrite_shard(folder / "train-000001.tar", {"id00/00005.json": wrong})


def _bad_image(folder: Path) -> None:
    _, mjpg, _ = make_sample(5)
    rewrite_shard(folder / "train-000001.tar", {"id00/00005.mjpg": b"\0" * len(mjpg)})


def _no_json(folder: Path) -> None:
    rewrite_shard(folder / "train-000001.tar", {"id00/00005.json": None})


def _no_mjpg(folder: Path) -> None:
    rewrite_shard(folder / "train-000001.tar", {"id00/00005.mjpg": None})


def _no_wav(folder: Path) -> None:
    rewrite_shard(folder / "train-000001.tar", {"id00/00005.wav": None})


def _bad_wav(folder: Path) -> None:
    rewrite_shard(folder / "train-000001.tar", {"id00/00005.wav": b"ID3" + b"\0" * 100})


def _truncated_in_a_member(folder: Path) -> None:
    path = folder / "train-000001.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmember("id00/00005.wav").offset_data
    path.write_bytes(path.read_bytes()[: offset + 1000])


def _truncated_between_members(folder: Path) -> None:
    path = folder / "train-000001.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmember("id00/00005.mjpg").offset
    path.write_bytes(path.read_bytes()[:offset])


def _no_shard(folder: Path) -> None:
    (folder / "train-000001.tar").unlink()


DAMAGES = {
    _wrong_version: ("bad-json", 1, "'id00/00005': schema version 9"),
    _bad_image: ("bad-image", 1, "'id00/00005': image [0-9]+ cannot be decoded"),
    _no_json: ("missing-member", 1, r"'id00/00005' has no json member \(found mjpg, wav\)"),
    _no_mjpg: ("missing-member", 1, r"'id00/00005' has no mjpg member \(found wav, json\)"),
    _no_wav: ("missing-member", 1, r"'id00/00005' has no wav member \(found mjpg, json\)"),
    _bad_wav: ("bad-sound", 1, "'id00/00005': its wav begins with"),
    _truncated_in_a_member: ("truncated", 3, "truncated or damaged after 1 of 4 samples"),
    _truncated_between_members: ("truncated", 3, "truncated or damaged after 1 of 4 samples"),
    _no_shard: ("missing-shard", 4, "no such shard"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_what_is_damaged_is_counted_by_cause_or_named(
    folder: Path, tmp_path: Path, damage: Any
) -> None:
    cause, count, message = DAMAGES[damage]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    damage(tmp_path)
    batches = list(one_epoch(tmp_path))
    skipped = sum((Counter(batch["skipped"]) for batch in batches), Counter())
    assert skipped == {cause: count}
    assert len(set(keys_of(batches))) == len(keys_of(batches)) == NUM_SAMPLES - count
    with pytest.raises(ShardError, match=f"train-000001.tar: .*{message}") as error:
        list(one_epoch(tmp_path, on_bad="raise"))
    assert "\n" not in str(error.value)


def test_worker_processes_count_too_and_their_error_stays_one_line(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    _bad_image(tmp_path)
    _no_json(tmp_path)  # of the same sample
    batches = list(loader(one_epoch(tmp_path), 2))
    assert sum((Counter(batch["skipped"]) for batch in batches), Counter()) == {"missing-member": 1}
    iterator = iter(loader(one_epoch(tmp_path, on_bad="raise"), 2))
    with pytest.raises(ShardError) as error:
        list(iterator)
    for process in iterator._workers:  # after an error torch would wait 5 s for each
        process.terminate()
    assert str(error.value) == (
        "train-000001.tar: sample 'id00/00005' has no json member (found mjpg, wav); rebuild it"
    )


def test_a_truncated_shard_does_not_shift_the_classes_of_its_readers(tmp_path: Path) -> None:
    samples = [make_sample(number) for number in range(12)]
    write_shards(tmp_path, samples, samples_per_shard=6)  # 2 shards
    path = tmp_path / "train-000000.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmember("id02/00002.mjpg").offset
    path.write_bytes(path.read_bytes()[:offset])
    keys, skipped = [], Counter()
    for rank in range(3):
        batches = list(one_epoch(tmp_path, rank=rank, world_size=3))
        keys += keys_of(batches)
        skipped.update(sum((Counter(batch["skipped"]) for batch in batches), Counter()))
    assert sorted(keys) == sorted(info.key for info, _, _ in samples if info.key[-1] not in "2345")
    assert skipped == {"truncated": 4}


@pytest.mark.parametrize("infinite", [True, False])
@pytest.mark.parametrize("world_size", [1, 2])
def test_an_epoch_of_nothing_but_skipped_samples_raises(
    tmp_path: Path, infinite: bool, world_size: int
) -> None:
    write_shards(tmp_path, [make_sample(number, sound=False) for number in range(8)])
    config = StreamConfig(batch_size=2)
    stream = clip_stream(
        tmp_path, INPUT, config, seed=0, infinite=infinite, rank=0, world_size=world_size
    )
    with pytest.raises(ClipError, match=r"every sample of epoch \d was skipped \(no-sound: \d\)"):
        next(iter(stream))


def test_one_reader_with_nothing_readable_goes_on_to_the_next_epoch(tmp_path: Path) -> None:
    write_shards(tmp_path, [make_sample(number, sound=number > 3) for number in range(8)])
    config = StreamConfig(batch_size=2, shuffle_buffer=0)
    for rank in range(2):  # 2 shards, one all silent: some epochs give a rank only that
        stream = clip_stream(tmp_path, INPUT, config, seed=0, rank=rank, world_size=2)
        batches = list(itertools.islice(stream, 10))
        assert len(keys_of(batches)) == 20
        assert sum((Counter(batch["skipped"]) for batch in batches), Counter())["no-sound"] > 0
