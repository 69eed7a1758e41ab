"""One file is fetched once, resumed where it broke off, and never taken for another."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.download import DownloadError, fetch
from hicmae.media import yunet

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves ``CONTENT``; ``ranges``: whether parts; ``breaks``: answers that stop half-way."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ranges, self.breaks, self.content = True, 0, CONTENT
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/network.onnx"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if self.path != "/network.onnx":
            self.send_error(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        start = int(match.group(1)) if match and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "cache" / "network.onnx"
    assert fetch(server.url, path, sha256=SHA256).read_bytes() == CONTENT
    assert fetch(server.url, path, sha256=SHA256) == path
    assert server.asked == [None]
    assert not path.with_name("network.onnx.part").exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_is_gone_on_with(
    server: Server, tmp_path: Path, ranges: bool
) -> None:
    server.breaks, server.ranges = 2, ranges
    path = tmp_path / "network.onnx"
    assert fetch(server.url, path, sha256=SHA256).read_bytes() == CONTENT
    assert server.asked[0] is None
    assert server.asked[1] == "bytes=150000-"


def test_what_came_before_a_kill_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "network.onnx.part").write_bytes(CONTENT[:100_000])
    fetch(server.url, tmp_path / "network.onnx", sha256=SHA256)
    assert server.asked == ["bytes=100000-"]
    assert (tmp_path / "network.onnx").read_bytes() == CONTENT
    # All had come, only the name was missing.
    (tmp_path / "network.onnx").rename(tmp_path / "network.onnx.part")
    fetch(server.url, tmp_path / "network.onnx", sha256=SHA256)
    assert (tmp_path / "network.onnx").read_bytes() == CONTENT


def test_a_server_that_keeps_breaking_off_is_given_up_and_its_bytes_are_kept(
    server: Server, tmp_path: Path
) -> None:
    server.breaks = 99
    with pytest.raises(DownloadError, match=r"network\.onnx: cannot be fetched \(") as error:
        fetch(server.url, tmp_path / "network.onnx", sha256=SHA256)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "network.onnx").exists()
    server.breaks = 0
    assert fetch(server.url, tmp_path / "network.onnx", sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_named_and_nothing_is_asked_for_again(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "network.onnx.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        fetch(server.url, tmp_path / "network.onnx", sha256=SHA256)
    assert error.value.filename == str(tmp_path / "network.onnx")
    assert len(server.asked) == 1


def test_another_file_is_refused_and_nothing_of_it_is_kept(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>log in first</html>"
    with pytest.raises(DownloadError, match=r"another file came: sha256 .* \(25 bytes\), expected"):
        fetch(server.url, tmp_path / "network.onnx", sha256=SHA256)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    server.content = CONTENT
    fetch(server.url, tmp_path / "network.onnx", sha256=SHA256)


def test_no_such_file_and_no_server_are_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="HTTP status 404"):
        fetch(f"{server.url}.gone", tmp_path / "a", sha256=SHA256)
    with pytest.raises(DownloadError, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/network.onnx", tmp_path / "a", sha256=SHA256)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server) -> Path:
    """As if newly installed, with the server for OpenCV's model zoo; returns the cache."""
    monkeypatch.delenv(yunet.VARIABLE, raising=False)
    monkeypatch.delenv("HICMAE_OFFLINE", raising=False)
    monkeypatch.setattr(yunet, "__file__", str(tmp_path / "a/b/c/yunet.py"))
    monkeypatch.setattr(yunet.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    monkeypatch.setattr(yunet, "SOURCE", server.url)
    monkeypatch.setattr(yunet, "SHA256", SHA256)
    return tmp_path / "cache"


def test_yunet_comes_into_the_cache_by_itself(nowhere: Path, server: Server) -> None:
    assert yunet.get_yunet() == nowhere / yunet.FILE_NAME
    assert yunet.get_yunet().read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize("how", ["argument", "variable", "named"])
def test_offline_nothing_is_asked_for(
    nowhere: Path, server: Server, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("HICMAE_OFFLINE", "1")
    if how == "named":  # what was named is never replaced by another file
        monkeypatch.setenv(yunet.VARIABLE, str(nowhere / "mine.onnx"))
    with pytest.raises(FileNotFoundError) as error:
        yunet.get_yunet(offline=how == "argument")
    assert ("mine.onnx: no such file" if how == "named" else "--faces cascade") in str(error.value)
    assert "\n" not in str(error.value)
    assert not server.asked


def test_a_failed_download_says_what_else_to_do(nowhere: Path, server: Server) -> None:
    server.content = b"x"
    with pytest.raises(FileNotFoundError, match=r"use --faces cascade.*another file came"):
        yunet.get_yunet()
