"""Tests of shards that are elsewhere: URLs, commands, and the cache that all processes share."""

from __future__ import annotations

import errno
import functools
import http.server
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import pytest
import torch
from fsspec.implementations.http import HTTPFileSystem

from shards.index import read_index
from shards.reading.files import open_folder
from shards.reading.random_access import ShardDataset
from shards.reading.remote import CacheConfig, RemoteError, RemoteFolder, RemoteShards
from shards.schema import ClipError, ShardError
from tests.support.shard_fixtures import INPUT, make_sample, write_shards
from tests.support.stream_fixtures import (
    first_batches,
    keys_of,
    one_epoch,
    skipped_in,
    stream_of,
    tar,
)


@pytest.fixture(scope="module")
def folder(six_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of 23 samples, in a place with a blank."""
    return Path(shutil.copytree(six_shards, tmp_path_factory.mktemp("far away") / "shards"))


@pytest.fixture
def cache(tmp_path: Path) -> CacheConfig:
    return CacheConfig(folder=tmp_path / "cache", retry_seconds=0)


@pytest.fixture
def in_memory(folder: Path) -> Iterator[str]:
    """The same files in fsspec's memory."""
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe(f"/far/{path.name}", path.read_bytes())
    yield "memory://far"
    files.rm("/far", recursive=True)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(handler: Any) -> Iterator[str]:
    """The URL of a server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The same files over HTTP, and the names that were asked for."""
    asked: list[str] = []

    class Handler(Quiet):
        def do_GET(self) -> None:
            asked.append(self.path[1:])
            super().do_GET()

    with serving(functools.partial(Handler, directory=str(folder))) as url:
        yield url, asked


def cached(cache: CacheConfig) -> list[str]:
    assert cache.folder is not None
    return sorted(path.name for path in cache.folder.glob("*.tar*"))


def batches_equal(found: Any, expected: Any) -> None:
    for batch, other in zip(found, expected, strict=True):
        assert batch["keys"] == other["keys"]
        assert torch.equal(batch["frames"], other["frames"])
        assert torch.equal(batch["waveform"], other["waveform"])


@pytest.mark.parametrize(
    ("kind", "workers"), [("file", 0), ("file", 2), ("memory", 0), ("http", 0), ("pipe", 2)]
)
def test_shards_elsewhere_give_the_same_batches(
    folder: Path,
    in_memory: str,
    served: tuple[str, list[str]],
    cache: CacheConfig,
    kind: str,
    workers: int,
) -> None:
    url = {
        "file": f"file://{folder}",
        "memory": in_memory,
        "http": served[0],
        "pipe": f"pipe:cat '{folder}'/{{}}",
    }[kind]
    stream = stream_of(url, batch_size=23, cache=cache)
    assert cached(cache) == []  # only the index so far
    batches_equal(first_batches(stream, 1, workers), one_epoch(folder, batch_size=23))
    index = open_folder(folder).index
    assert cached(cache) == sorted(f"{shard['sha256']}.tar" for shard in index.info["shards"])


def test_a_large_shard_of_a_server_that_knows_no_ranges_is_fetched(
    served: tuple[str, list[str]], folder: Path
) -> None:
    # 12 MiB, more than fsspec's reader asks for at once.
    large = folder / "large.bin"
    large.write_bytes(bytes(range(256)) * 4 * 12 * 1024)
    try:
        assert b"".join(RemoteFolder(served[0]).blocks(large.name)) == large.read_bytes()
        assert served[1] == [large.name]
    finally:
        large.unlink()


@pytest.mark.slow
def test_a_slow_server_is_given_the_time_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "6")
            self.end_headers()
            for _ in range(6):
                threading.Event().wait(0.1)
                self.wfile.write(b"x")

        do_HEAD = Quiet.do_HEAD  # of a file that is not there, so that it is asked for itself

    # What is not said otherwise must be over by then: five minutes, in short.
    monkeypatch.setattr(aiohttp.client, "DEFAULT_TIMEOUT", aiohttp.ClientTimeout(total=0.3))
    HTTPFileSystem.clear_instance_cache()
    with serving(Slow) as url:
        assert b"".join(RemoteFolder(url).blocks("slow.tar")) == b"xxxxxx"
        monkeypatch.setattr("shards.reading.remote._SILENT_SECONDS", 0.01)
        with pytest.raises(RemoteError, match=r"slow.tar .*(it sent nothing|[Tt]imeout)"):
            list(RemoteFolder(url).blocks("slow.tar"))


def test_what_a_server_answers_is_said() -> None:
    class Refusing(Quiet):
        def do_GET(self) -> None:
            self.send_error(403)

    with serving(Refusing) as url, pytest.raises(RemoteError, match=r"json .*403.*Forbidden"):
        list(RemoteFolder(url).blocks("index.json"))


def test_shards_that_have_moved_are_followed(
    served: tuple[str, list[str]], folder: Path, cache: CacheConfig
) -> None:
    class Moved(Quiet):
        def do_GET(self) -> None:
            self.send_response(302)
            to = self.path if self.path.startswith("/circle/") else f"{served[0]}{self.path}"
            self.send_header("Location", to)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving(Moved) as url:
        remote = RemoteShards(RemoteFolder(url), cache)
        index = remote.index()
        remote.described = index.described
        name = next(iter(remote.described))
        assert remote.fetch(name).read_bytes() == (folder / name).read_bytes()
        with pytest.raises(RemoteError, match=r"/circle: index.json .*TooManyRedirects") as error:
            list(RemoteFolder(f"{url}/circle").blocks("index.json"))
    assert "\n" not in str(error.value)


def test_an_index_too_is_asked_for_again(folder: Path, cache: CacheConfig) -> None:
    asked: list[str] = []

    class Busy(Quiet):
        def do_GET(self) -> None:
            asked.append(self.path)
            if asked.count(self.path) == 1:
                self.send_error(503)
            else:
                super().do_GET()

    with serving(functools.partial(Busy, directory=str(folder))) as url:
        remote = RemoteShards(RemoteFolder(url), cache)
        assert len(remote.index().table) == len(read_index(folder).table)


def test_an_index_that_came_in_part_is_asked_for_again(folder: Path, cache: CacheConfig) -> None:
    """Of a server that does not say how long a file is, the end of a connection is that of it."""
    cut = {"/index.json", "/index.parquet"}

    class Ending(Quiet):
        def do_GET(self) -> None:
            if self.path not in cut:
                return super().do_GET()
            cut.remove(self.path)
            whole = (folder / self.path[1:]).read_bytes()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(whole[: len(whole) // 2])

    with serving(functools.partial(Ending, directory=str(folder))) as url:
        remote = RemoteShards(RemoteFolder(url), cache)
        assert len(remote.index().table) == len(read_index(folder).table)
    assert not cut


def test_processes_fetch_each_shard_once_and_later_runs_none(
    served: tuple[str, list[str]], cache: CacheConfig
) -> None:
    url, asked = served
    one_epoch(url, cache=cache, workers=2)
    assert sorted(name for name in asked if name.endswith(".tar")) == [
        f"train-{number:06d}.tar" for number in range(6)
    ]
    asked.clear()
    one_epoch(url, 1, cache=cache)
    assert sorted(set(asked)) == ["index.json", "index.parquet"]


def test_the_next_shard_is_fetched_before_it_is_read(
    served: tuple[str, list[str]], cache: CacheConfig
) -> None:
    url, asked = served
    stream = stream_of(url, cache=cache, batch_size=1, shuffle_shards=0)
    next(iter(stream))  # one sample of one shard
    for _ in range(500):
        if sum(name.endswith(".tar") for name in asked) >= 2:
            break
        threading.Event().wait(0.01)
    assert sum(name.endswith(".tar") for name in asked) == 2


def test_a_fetch_ahead_that_failed_long_ago_does_not_count(
    folder: Path, tmp_path: Path, cache: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, name = Path(shutil.copytree(folder, tmp_path / "far")), "train-000000.tar"
    files = open_folder(f"file://{far}", cache).files
    (far / name).rename(far / "away")
    files.prefetch(name)
    assert isinstance(files._fetches[name].exception(timeout=60), ClipError)
    (far / "away").rename(far / name)
    monkeypatch.setattr("shards.reading.files._FAILED_SECONDS", 0.0)  # the minute is over
    assert files.path(name).exists()


def test_random_access_goes_through_the_same_cache(
    folder: Path, served: tuple[str, list[str]], cache: CacheConfig
) -> None:
    url, asked = served
    opened = open_folder(url, cache)
    rows = opened.index.table[opened.index.table["speaker"] == "id02"]
    far = ShardDataset(opened, input=INPUT, rows=rows, views=2)
    near = ShardDataset(read_index(folder), input=INPUT, rows=rows, views=2)
    for number in range(len(near)):
        a: Any = far[number]
        b: Any = near[number]
        assert a["key"] == b["key"]
        assert torch.equal(a["frames"], b["frames"])
    assert len([name for name in asked if name.endswith(".tar")]) == len(set(rows["shard"]))
    again: Any = ShardDataset(open_folder(url, cache), input=INPUT)[0]
    assert again["key"] == opened.index.table["key"].iloc[0]


def test_the_cache_keeps_to_its_size_and_drops_what_was_opened_longest_ago(
    folder: Path, tmp_path: Path
) -> None:
    size = tar(folder, 0).stat().st_size
    config = CacheConfig(folder=tmp_path / "small", gigabytes=2.5 * size / 1e9)
    keys = keys_of(one_epoch(f"file://{folder}", cache=config))
    assert len(set(keys)) == 23  # what is dropped while it is read is fetched again
    assert len(cached(config)) <= 3
    kept = RemoteShards(RemoteFolder(f"file://{folder}"), config)
    kept.described = open_folder(folder).index.described
    names = list(kept.described)
    for number in (0, 1, 0, 2):
        os.utime(kept.fetch(names[number]), ns=(0, number_of_call(kept)))
    assert [kept.holds(name) for name in names[:3]] == [True, False, True]


def number_of_call(kept: RemoteShards) -> int:
    """Times that ascend, whatever the clock of the file system."""
    return max(path.stat().st_mtime_ns for path in kept.folder.glob("*.tar")) + 1_000_000


def test_a_shard_that_is_not_the_one_of_the_index_is_never_kept(
    folder: Path, tmp_path: Path, cache: CacheConfig
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = tar(copy, 1)
    path.write_bytes(path.read_bytes()[:-512])
    batches = one_epoch(f"file://{copy}", cache=cache)
    assert skipped_in(batches) == {"missing-shard": 4}
    # One that is fetched ahead may still be on its way, under a hidden name.
    assert len([name for name in cached(cache) if name.endswith(".tar")]) == 5
    with pytest.raises(
        ClipError, match=r"train-000001.tar: file://.* not the one .*; 3 tries$"
    ) as error:
        one_epoch(f"file://{copy}", cache=cache, on_bad="raise")
    assert "\n" not in str(error.value)


def test_a_copy_that_goes_bad_in_the_cache_is_fetched_again(
    folder: Path, cache: CacheConfig
) -> None:
    url = f"file://{folder}"
    expected = one_epoch(url, cache=cache)
    assert cache.folder is not None
    for path in cache.folder.glob("*.tar"):
        data = bytearray(path.read_bytes())
        data[3000:3100] = bytes(100)  # in the images of the first sample
        path.write_bytes(data)
    batches_equal(one_epoch(url, cache=cache), expected)
    dataset = ShardDataset(open_folder(url, cache), input=INPUT)
    assert all(isinstance(dataset[number], dict) for number in range(23))


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_samples(
    folder: Path, cache: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, block: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stream = stream_of(f"file://{folder}", cache=cache, batch_size=4)  # skips bad samples
    monkeypatch.setattr("shards.reading.remote.DigestingFile.write", full)
    with pytest.raises(ValueError, match=r"cache cannot hold train-.*No space.*gigabytes") as error:
        next(iter(stream))
    assert not isinstance(error.value, ClipError)
    assert str(error.value).startswith(str(cache.folder))


def fetch(config: CacheConfig, url: str, barrier: Any, results: Any) -> None:
    """In a process of its own: fetch one shard at the same time as others."""
    kept = RemoteShards(RemoteFolder(url), config)
    described = kept.index().info["shards"][0]
    kept.described = {described["name"]: described}
    barrier.wait()
    results.put(kept.fetch(described["name"]).stat().st_size)


def test_processes_that_want_the_same_shard_at_once_share_one_fetch(
    folder: Path, served: tuple[str, list[str]], cache: CacheConfig
) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    arguments = (cache, served[0], barrier, results)
    processes = [context.Process(target=fetch, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    sizes = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert set(sizes) == {tar(folder, 0).stat().st_size}
    assert served[1].count("train-000000.tar") == 1


def test_a_rebuilt_collection_is_noticed(folder: Path, tmp_path: Path, cache: CacheConfig) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    one_epoch(f"file://{copy}", cache=cache)
    shutil.rmtree(copy)
    write_shards(copy, [make_sample(number) for number in range(30, 40)])
    assert sorted(keys_of(one_epoch(f"file://{copy}", cache=cache)))[0] == "id00/00030"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nowhere", "memory://nowhere: index.json is not there"),
        ("pipe:exit 3 # {}", "index.json cannot be read .*exit 3"),
        ("http://127.0.0.1:9/x", "index.json is not there, or cannot be reached"),
        ("strange://a/b", "strange://a/b: index.json cannot be read .*strange"),
    ],
)
def test_a_folder_that_cannot_be_reached_is_named(
    cache: CacheConfig, url: str, message: str
) -> None:
    with pytest.raises(FileNotFoundError, match=message) as error:
        one_epoch(url, cache=cache)
    assert "\n" not in str(error.value)


def test_what_cannot_be_an_index_or_a_setting_is_refused(
    tmp_path: Path, cache: CacheConfig
) -> None:
    with pytest.raises(ValueError, match=r"the command must have \{\} where the name"):
        one_epoch("pipe:cat shards.tar", cache=cache)
    (tmp_path / "index.json").write_text("{")
    (tmp_path / "index.parquet").write_text("")
    with pytest.raises(ShardError, match=r"^file://.*index.json: cannot be read"):
        one_epoch(f"file://{tmp_path}", cache=cache)
    with pytest.raises(ValueError, match=r"gigabytes = 0 .*retry_seconds = -1"):
        CacheConfig(gigabytes=0, retry_seconds=-1)
