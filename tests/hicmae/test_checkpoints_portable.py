"""Networks are shared: by folder, by any web server, by the Hub's interface; never damaged."""

from __future__ import annotations

import base64
import copy
import errno
import hashlib
import http.server
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.checkpoints.portable import PortableModel
from hicmae.emotion import EmotionConfig, EmotionModel
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig, ObjectiveConfig

COMMIT = "c" * 40


class Server(http.server.ThreadingHTTPServer):
    """A web server of one folder, and just enough of the Hub's interface for one repository.

    Attributes:
        root: What ``/files/…`` hands out.
        repository: What ``owner/name`` holds; commits go here too.
        requests: (method, path, asked-for range) of everything that came.
        break_after: Bytes after which the next download of weights breaks off.
        refusal: Status, headers and body that every request gets.
        moved_to: Where ``/moved/…`` is now.
    """

    def __init__(self, root: Path, repository: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.repository = root, repository
        self.requests: list[tuple[str, str, str | None]] = []
        self.break_after: int | None = None
        self.refusal: tuple[int, dict[str, str], bytes] | None = None
        self.moved_to = "/files/"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(size)
        self.server.requests.append(("POST", self.path, None))
        if self.server.refusal is not None:
            self._refuse()
        elif self.path == "/api/repos/create":
            self._json({"url": f"{self.server.url}/owner/name", "name": "owner/name"})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(content)["files"]
            ]
            self._json({"files": files})
        elif "/commit/" in self.path:
            for line in content.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    target = self.server.repository / item["value"]["path"]
                    target.write_bytes(base64.b64decode(item["value"]["content"]))
            where = f"{self.server.url}/owner/name/commit/{COMMIT}"
            self._json({"success": True, "commitUrl": where, "commitOid": COMMIT})
        else:
            self.send_error(404)

    def _refuse(self, *, body: bool = True) -> None:
        assert self.server.refusal is not None
        status, headers, content = self.server.refusal
        self.send_response(status)
        for item in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(*item)
        self.end_headers()
        self.wfile.write(content if body else b"")

    def _serve(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        asked = self.headers.get("Range")
        self.server.requests.append((self.command, path, asked))
        if self.server.refusal is not None:
            self._refuse(body=body)
            return
        if path.startswith("/api/models/owner/name/tree/"):
            files = sorted(self.server.repository.iterdir())
            oids = [hashlib.sha1(item.read_bytes()).hexdigest() for item in files]
            self._json(
                [
                    {"type": "file", "path": item.name, "size": item.stat().st_size, "oid": oid}
                    for item, oid in zip(files, oids, strict=True)
                ]
            )
        elif path.startswith("/api/models/owner/name"):
            names = sorted(item.name for item in self.server.repository.iterdir())
            siblings = [{"rfilename": name} for name in names]
            self._json({"id": "owner/name", "sha": COMMIT, "siblings": siblings})
        elif path.startswith("/owner/name/resolve/"):
            self._file(self.server.repository / path.rsplit("/", 1)[1], asked, body)
        elif path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", path.replace("/moved/", self.server.moved_to, 1))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path.startswith("/files/"):
            self._file(self.server.root / path.removeprefix("/files/"), asked, body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _json(self, document: Any) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _file(self, file: Path, asked: str | None, body: bool) -> None:
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            end = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.end_headers()
        if not body:
            return
        limit, self.server.break_after = self.server.break_after, None
        if limit is not None and file.suffix == ".safetensors":
            self.wfile.write(content[start : start + limit])
            self.close_connection = True
        else:
            self.server.break_after = limit
            self.wfile.write(content[start:])


@pytest.fixture
def network(tiny_model_config: ModelConfig) -> EmotionModel:
    """A small network that carries labels."""
    torch.manual_seed(0)
    made = EmotionModel(tiny_model_config, EmotionConfig(num_outputs=2))
    made.carried = {"labels": {"task": "classification", "names": ["joy", "anger"]}}
    return made


@pytest.fixture
def server(
    tmp_path: Path, network: EmotionModel, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """A running server that hands out the network, as ``/files/made`` and as ``owner/name``."""
    network.save_pretrained(tmp_path / "served" / "made")
    network.save_pretrained(tmp_path / "repository")
    running = Server(tmp_path / "served", tmp_path / "repository")
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    url = running.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HICMAE_OFFLINE", raising=False)
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two networks hold equal weights."""
    ours, theirs = first.state_dict(), second.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def damage(weights: Path) -> None:
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def test_a_saved_network_comes_back_with_all_that_it_carries(
    tmp_path: Path, network: EmotionModel
) -> None:
    network.train()
    network.save_pretrained(tmp_path / "made" / "checkpoints" / "last")
    assert network.training
    back = EmotionModel.from_pretrained(tmp_path / "made")  # as a fold of a run is
    assert same(network, back)
    assert not back.training
    assert back.carried["labels"]["names"] == ["joy", "anger"]
    back.save_pretrained(tmp_path / "again")
    assert (
        load_checkpoint(tmp_path / "again").labels() == load_checkpoint(tmp_path / "made").labels()
    )


@pytest.mark.parametrize(
    ("change", "known"),
    [
        (lambda network: network, True),
        (lambda network: network.half(), True),
        (lambda network: network.bfloat16(), True),
        (lambda network: network.double(), True),
        (lambda network: network.head.bias.data.add_(1), False),
        (lambda network: setattr(network, "carried", {"scores": {"uar": 0.25}}), True),
    ],
)
def test_scores_are_those_of_the_weights_beside_them(
    tmp_path: Path, network: EmotionModel, change: Callable[[EmotionModel], Any], known: bool
) -> None:
    network.carried = {**network.carried, "scores": {"uar": 0.5}, "licence": "mine"}
    network.save_pretrained(tmp_path / "made")
    back = EmotionModel.from_pretrained(tmp_path / "made")
    change(back)
    own = dict(back.carried)
    back.save_pretrained(tmp_path / "again")
    for _ in range(2):  # over what was loaded, too
        back.save_pretrained(tmp_path / "made")
    again = load_checkpoint(tmp_path / "again").config
    over = load_checkpoint(tmp_path / "made").config
    assert over | {"probe": None} == again | {"probe": None}
    wanted = {name: part for name, part in own.items() if name != "probe"}
    if not known:
        del wanted["scores"]
        wanted["source"] = {"changed from": str(tmp_path / "made")}
    assert {name: again.get(name) for name in wanted} == wanted
    assert ("scores" in again) == known
    assert ("## Scores" in (tmp_path / "again" / "README.md").read_text()) == known


@pytest.mark.parametrize(
    "made",
    [
        lambda sizes: EmotionModel(sizes, EmotionConfig(num_outputs=5, modalities="audio")),
        lambda sizes: EmotionModel(sizes, EmotionConfig(num_outputs=2, modalities="video")),
        lambda sizes: HiCMAE(sizes, ObjectiveConfig(video_mask_ratio=0.75, temperature=0.2)),
    ],
)
def test_every_network_comes_back_with_all_of_its_settings(
    server: Server,
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    made: Callable[[ModelConfig], EmotionModel | HiCMAE],
) -> None:
    network = made(replace(tiny_model_config, mlp_ratio=2.0))
    network.push_to_hub("owner/name", token="hf_test")
    for source in ("owner/name", tmp_path / "repository"):
        back = type(network).from_pretrained(source, cache_dir=tmp_path / "cache")
        assert back.sections() == network.sections()
        assert same(network, back)


@pytest.mark.parametrize("variable", ["HICMAE_OFFLINE", "HF_HUB_OFFLINE"])
def test_nothing_is_sent_or_asked_for_where_the_network_is_forbidden(
    server: Server,
    tmp_path: Path,
    network: EmotionModel,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    if variable == "HICMAE_OFFLINE":
        monkeypatch.setenv(variable, "1")
    else:  # which the library reads once
        monkeypatch.setattr(constants, variable, True)
    with pytest.raises(ValueError, match=f"owner/name: {variable} forbids the network"):
        network.push_to_hub("owner/name", token="hf_test")
    for source in ("owner/name", f"{server.url}/files/made"):
        with pytest.raises(ValueError, match="the network may not be used"):
            EmotionModel.from_pretrained(source, cache_dir=tmp_path / "cache")
    assert server.requests == []


def test_no_network_is_left_out_of_that_test() -> None:
    assert {kind.__name__ for kind in PortableModel.__subclasses__()} == {"EmotionModel", "HiCMAE"}


def test_saving_into_a_folder_leaves_other_files_alone(
    tmp_path: Path, network: EmotionModel
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    network.save_pretrained(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_saving_that_fails_leaves_the_checkpoint_that_was_there(
    tmp_path: Path, network: EmotionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = copy.deepcopy(network)
    network.save_pretrained(tmp_path)
    network.head.bias.data.add_(1)
    for name in ("save_file", "file_sha256"):
        with monkeypatch.context() as patched:
            patched.setattr(f"hicmae.checkpoints.checkpoint.{name}", full)
            with pytest.raises(OSError, match="No space left"):
                network.save_pretrained(tmp_path)
        assert same(before, EmotionModel.from_pretrained(tmp_path))
    assert len(list(tmp_path.iterdir())) == 4
    network.save_pretrained(tmp_path)
    assert same(network, EmotionModel.from_pretrained(tmp_path))


def test_a_pretrained_network_is_shared_the_same_way_and_is_not_of_the_other_kind(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    network = HiCMAE(tiny_model_config)
    network.save_pretrained(tmp_path / "made")
    assert same(network, HiCMAE.from_pretrained(tmp_path / "made"))
    with pytest.raises(ValueError, match=r"is of kind pretraining; HiCMAE\.from_pretrained"):
        EmotionModel.from_pretrained(tmp_path / "made")


@pytest.mark.parametrize("ending", ["", "/", "/config.json", "/model.safetensors"])
def test_a_web_address_is_downloaded_once(
    server: Server, tmp_path: Path, network: EmotionModel, ending: str
) -> None:
    url = f"{server.url}/files/made{ending}"
    for _ in range(2):
        assert same(network, EmotionModel.from_pretrained(url, cache_dir=tmp_path / "cache"))
    fetched = [path for _, path, _ in server.requests if path.endswith(".safetensors")]
    assert fetched == ["/files/made/model.safetensors"]


def test_a_revision_of_what_has_none_is_refused(server: Server, tmp_path: Path) -> None:
    for source in (tmp_path / "repository", f"{server.url}/files/made"):
        with pytest.raises(ValueError, match=r"and revision = v2 is the Hub.s"):
            EmotionModel.from_pretrained(source, revision="v2", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("place", ["files", "moved"])
def test_a_download_that_broke_off_goes_on_where_it_was_and_where_it_has_moved_to(
    server: Server, tmp_path: Path, network: EmotionModel, place: str
) -> None:
    server.break_after = 1000
    url = f"{server.url}/{place}/made"
    assert same(network, EmotionModel.from_pretrained(url, cache_dir=tmp_path / "cache"))
    weights = "/files/made/model.safetensors"
    ranges = [asked for _, path, asked in server.requests if path == weights]
    assert ranges == [None, "bytes=1000-"]


@pytest.mark.parametrize("elsewhere", ["/moved/", "file:///etc/"])
def test_an_address_that_leads_nowhere_is_one_line_that_names_it(
    server: Server, tmp_path: Path, elsewhere: str
) -> None:
    """In a circle, or to files of this machine, which a web server has no business with."""
    server.moved_to = elsewhere
    url = f"{server.url}/moved/made"
    with pytest.raises(ValueError, match=rf"{url}/config\.json: HTTP status 302") as error:
        EmotionModel.from_pretrained(url, cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:ssh/made", "nonnumeric port"),
        ("http://[::1/made", "Invalid IPv6"),
        ("{server}/files/mon modèle", "mod%C3%A8le/config.json: HTTP status 404"),
        ("{other}/made", "cannot be fetched (SSH-2.0-OpenSSH)"),
    ],
)
def test_an_address_of_something_else_is_one_line(
    server: Server, tmp_path: Path, address: str, said: str
) -> None:
    def answer() -> None:
        with suppress(OSError):
            asking, _ = other.accept()
            with asking:
                asking.sendall(b"SSH-2.0-OpenSSH\r\n")

    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=answer, daemon=True).start()
        url = address.format(server=server.url, other=f"http://127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"HTTP status|cannot be fetched") as error:
            EmotionModel.from_pretrained(url, cache_dir=tmp_path / "cache")
        other.shutdown(socket.SHUT_RDWR)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_another_file_than_the_configuration_describes_is_not_kept(
    server: Server, tmp_path: Path
) -> None:
    damage(tmp_path / "served" / "made" / "model.safetensors")
    with pytest.raises(ValueError, match="sha256") as error:
        EmotionModel.from_pretrained(f"{server.url}/files/made", cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)
    left = {path.suffix for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left <= {".lock"}


def test_a_new_version_under_the_same_address_is_fetched(
    server: Server, tmp_path: Path, network: EmotionModel
) -> None:
    url = f"{server.url}/files/made"
    EmotionModel.from_pretrained(url, cache_dir=tmp_path / "cache")
    with torch.no_grad():
        network.head.bias += 1
    network.save_pretrained(tmp_path / "served" / "made")
    assert same(network, EmotionModel.from_pretrained(url, cache_dir=tmp_path / "cache"))


def test_what_is_downloaded_again_is_there_until_the_new_one_is(
    server: Server, tmp_path: Path, network: EmotionModel
) -> None:
    url, served = f"{server.url}/files/made", tmp_path / "served/made/model.safetensors"
    again = {"cache_dir": tmp_path / "cache", "force_download": True}
    EmotionModel.from_pretrained(url, **again)
    (cached,) = (tmp_path / "cache").glob("*/*/model.safetensors")
    damage(cached)
    assert same(network, EmotionModel.from_pretrained(url, **again))
    served.rename(tmp_path / "away")
    with pytest.raises(ValueError, match="HTTP status 404"):
        EmotionModel.from_pretrained(url, **again)
    for source in (url, "owner/name"):
        with pytest.raises(ValueError, match="force_download needs the network, which may not be"):
            EmotionModel.from_pretrained(source, **again, local_files_only=True)
    assert same(network, EmotionModel.from_pretrained(url, cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("source", ["owner/name", "web"])
def test_offline_uses_what_was_downloaded_and_asks_nobody(
    server: Server, tmp_path: Path, network: EmotionModel, source: str
) -> None:
    where = f"{server.url}/files/made" if source == "web" else source
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match="may not be used") as error:
        EmotionModel.from_pretrained(where, cache_dir=cache, local_files_only=True)
    assert "\n" not in str(error.value)
    assert server.requests == []
    EmotionModel.from_pretrained(where, cache_dir=cache)
    server.requests.clear()
    back = EmotionModel.from_pretrained(where, cache_dir=cache, local_files_only=True)
    assert same(network, back)
    assert server.requests == []


@pytest.mark.parametrize("offline", [True, False])
def test_a_cache_that_is_whole_is_only_read(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    """As one that all of a group read and one of them may write."""
    where, cache = f"{server.url}/files/made", tmp_path / "cache"
    EmotionModel.from_pretrained(where, cache_dir=cache)

    def written(*_: Any, **__: Any) -> None:
        raise PermissionError

    monkeypatch.setattr("hicmae.files.whole_file", written)
    EmotionModel.from_pretrained(where, cache_dir=cache, local_files_only=offline)


def test_a_configuration_that_is_no_text_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "repository" / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"config\.json: not a text in UTF-8"):
        EmotionModel.from_pretrained("owner/name", cache_dir=tmp_path / "cache")


def test_a_damaged_repository_is_refused(server: Server, tmp_path: Path) -> None:
    damage(tmp_path / "repository" / "model.safetensors")
    with pytest.raises(ValueError, match="SHA-256 differs"):
        EmotionModel.from_pretrained("owner/name", cache_dir=tmp_path / "cache")


PAGE = b"<html>sign in, please</html>"


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "status 404.*look at the name; if it is private"),
        (401, {"X-Error-Code": "RepoNotFound"}, "status 401.*give a token .hf auth login"),
        (403, {"X-Error-Code": "GatedRepo"}, "status 403.*ask for access on its page"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision 'v9'; name a branch"),
        (429, {"Retry-After": "7"}, "status 429.*try again in 7 s"),
        (500, {}, "status 500.*try again later"),
        (503, {}, "status 503.*try again later"),
        (200, {"Content-Type": "text/html"}, "answers with a page and not as the Hub does"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_the_remedy(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    headers: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.refusal = (status, headers, PAGE if status == 200 else b"{}")
    with pytest.raises(ValueError, match=f"owner/name: .*{message}") as error:
        EmotionModel.from_pretrained("owner/name", revision="v9", cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "refusal", "message"),
    [
        ("owner/name", (401, {}, b'{"error": "Invalid\\ntoken"}'), "401, Invalid token.: .* write"),
        ("owner/name", (403, {}, b"{}"), "refuses it .HTTP status 403.: .* may write there"),
        ("owner/name", (503, {}, b"{}"), "status 503.*try again later"),
        ("owner/name", (200, {}, PAGE), "cannot be sent to http.*save_pretrained writes the same"),
        ("owner/name", None, "cannot be sent to http.*look at the network"),
        ("a/b/c", None, "Repo id must be"),
    ],
)
def test_what_cannot_be_pushed_is_one_line_with_the_remedy(
    server: Server,
    network: EmotionModel,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    refusal: tuple[int, dict[str, str], bytes] | None,
    message: str,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.refusal = refusal
    if refusal is None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=f"{name}: .*{message}") as error:
        network.push_to_hub(name, token="hf_test")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{url}/files/nowhere", "404"),
        ("other/name", "404"),
        ("{url}/", "404"),
        ("no such thing", "no such folder; give a checkpoint or run folder"),
    ],
)
def test_what_is_not_there_gets_one_line(
    server: Server, tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        EmotionModel.from_pretrained(source.format(url=server.url), cache_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_a_network_is_pushed_with_its_card_and_comes_back(
    server: Server, tmp_path: Path, network: EmotionModel
) -> None:
    with torch.no_grad():
        network.head.bias += 1
    for file in (tmp_path / "repository").iterdir():
        file.unlink()
    network.push_to_hub("owner/name", token="hf_test")
    pushed = {file.name for file in (tmp_path / "repository").iterdir()}
    assert pushed == {"config.json", "model.safetensors", "probe.safetensors", "README.md"}
    assert "library_name: hicmae" in (tmp_path / "repository" / "README.md").read_text()
    back = EmotionModel.from_pretrained("owner/name", cache_dir=tmp_path / "cache")
    assert same(network, back)
    assert back.carried["labels"]["names"] == ["joy", "anger"]
