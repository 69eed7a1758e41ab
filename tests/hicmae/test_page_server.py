"""The endpoints of the page: who may ask, for what, and what is answered when it goes wrong."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from starlette.datastructures import UploadFile

from hicmae.media.crops import encode_jpeg
from hicmae.page.guard import known_names
from hicmae.page.jobs import UploadFolder
from hicmae.page.server import make_app
from hicmae.page.settings import Limits
from tests.support.page_fixtures import SlowAnalyst

PAGE = "http://localhost:8000"


@pytest.fixture
def analyst() -> SlowAnalyst:
    """One that answers at once."""
    made = SlowAnalyst()
    made.go.set()
    return made


@pytest.fixture
def folder(tmp_path: Path) -> UploadFolder:
    return UploadFolder(tmp_path)


@pytest.fixture
def client(analyst: SlowAnalyst, folder: UploadFolder) -> Iterator[TestClient]:
    limits = Limits(megabytes=0.2, waiting=1)
    app = make_app(analyst, limits=limits, folder=folder, names=known_names("127.0.0.1"))
    with TestClient(app, base_url=PAGE, client=("127.0.0.1", 50000)) as made:
        yield made


def sent(content: bytes = b"good", name: str = "clip.mp4") -> dict[str, Any]:
    """A form with a recording."""
    return {"file": (name, content, "video/mp4")}


def error(answer: Any, status: int) -> str:
    """The cause of an error, which has a message too."""
    assert answer.status_code == status, answer.text
    problem = answer.json()["error"]
    assert problem["message"]
    return str(problem["cause"])


def test_a_recording_goes_in_and_its_prediction_comes_out(
    client: TestClient, analyst: SlowAnalyst, folder: UploadFolder
) -> None:
    answer = client.post("/api/predict", files=sent(b"four"))
    assert answer.status_code == 200
    assert answer.json()["seconds"] == 4
    assert analyst.seen == [b"four"]
    assert list(folder.path.iterdir()) == []


def test_a_page_lets_its_recording_wait_and_asks_how_it_goes(
    client: TestClient, analyst: SlowAnalyst
) -> None:
    analyst.go.clear()
    answer = client.post("/api/jobs", files=sent(name="../../mine.mp4"))
    assert answer.status_code == 202
    where = f"/api/jobs/{answer.json()['id']}"
    assert client.get(where).json()["name"] == "mine.mp4"
    analyst.go.set()
    for _ in range(1000):
        status = client.get(where).json()
        if status["state"] == "done":
            break
    assert status["result"]["seconds"] == 4
    assert client.delete(where).status_code == 204
    assert error(client.get(where), 404) == "no-job"
    assert error(client.delete(where), 404) == "no-job"


def test_what_the_analyst_refuses_is_an_error_with_its_reason(client: TestClient) -> None:
    answer = client.post("/api/predict", files=sent(b"bad: no face in it"))
    assert error(answer, 422) == "error"
    assert answer.json()["error"]["message"] == "bad: no face in it"


def test_a_full_queue_says_so_and_when_to_come_back(
    client: TestClient, analyst: SlowAnalyst, folder: UploadFolder
) -> None:
    analyst.go.clear()
    for _ in range(2):
        assert client.post("/api/jobs", files=sent()).status_code == 202
    for path in ("/api/jobs", "/api/predict"):
        answer = client.post(path, files=sent())
        assert error(answer, 503) == "busy"
        assert answer.headers["retry-after"] == "10"
    assert len(list(folder.path.iterdir())) == 2


@pytest.mark.parametrize("path", ["/api/predict", "/api/jobs"])
def test_more_than_the_limit_is_refused_with_or_without_a_length(
    client: TestClient, path: str, analyst: SlowAnalyst, folder: UploadFolder
) -> None:
    large = b"x" * 400_000
    assert error(client.post(path, files=sent(large)), 413) == "too-large"
    request = client.build_request("POST", path, files=sent(large))
    body = request.read()
    kind = request.headers["content-type"]

    def pieces() -> Iterator[bytes]:  # sent in chunks, whose sum nobody says beforehand
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    answer = client.post(path, content=pieces(), headers={"content-type": kind})
    assert error(answer, 413) == "too-large"
    assert "larger than 0.2 MB, the limit" in answer.json()["error"]["message"]
    assert analyst.seen == []
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"data": {"file": "text in place of a file"}},
        {"files": {"other": ("a.mp4", b"x")}},
        {"content": b"no form", "headers": {"content-type": "application/octet-stream"}},
    ],
)
def test_a_form_without_a_recording_says_what_to_send(
    client: TestClient, form: dict[str, Any]
) -> None:
    answer = client.post("/api/predict", **form)
    assert error(answer, 422) == "request"
    assert "file=@" in answer.json()["error"]["message"]


def test_a_broken_form_is_an_error(client: TestClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/api/predict", content=b"--x\r\nbroken", headers=headers)
    assert error(answer, 400 if answer.status_code == 400 else 422) == "request"


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "192.168.1.5:8000", "", "a@localhost", "[::"]
)
def test_another_host_name_is_refused_as_in_dns_rebinding(client: TestClient, host: str) -> None:
    for path in ("/", "/api/model"):
        assert error(client.get(path, headers={"host": host}), 421) == "host"
    assert error(client.post("/api/predict", files=sent(), headers={"host": host}), 421) == "host"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1234", "[::1]:8000"])
def test_this_machine_has_several_names(client: TestClient, host: str) -> None:
    assert client.get("/api/model", headers={"host": host}).status_code == 200


def test_a_page_for_others_takes_addresses_and_allowed_names_and_no_foreign_name(
    analyst: SlowAnalyst, folder: UploadFolder
) -> None:
    app = make_app(
        analyst,
        limits=Limits(),
        folder=folder,
        names=known_names("0.0.0.0", ["lab.example"]),
        any_address=True,
    )
    with TestClient(app, base_url=PAGE) as client:
        for host, status in (("10.0.0.7:8000", 200), ("lab.example", 200), ("evil.example", 421)):
            assert client.get("/api/model", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:9000"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_web_sites_may_change_nothing(
    client: TestClient, analyst: SlowAnalyst, headers: dict[str, str]
) -> None:
    for path in ("/api/predict", "/api/jobs"):
        assert error(client.post(path, files=sent(), headers=headers), 403) == "origin"
    assert error(client.delete("/api/jobs/x", headers=headers), 403) == "origin"
    assert analyst.seen == []


def test_the_page_itself_may_post(client: TestClient) -> None:
    headers = {"origin": PAGE, "sec-fetch-site": "same-origin"}
    assert client.post("/api/predict", files=sent(), headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/page.css/../../server.py",
        "/assets/index.html",
        "/index.html",
        "/etc/passwd",
        "//etc/passwd",
        "/api/jobs/..%2f..%2f..%2fetc%2fpasswd",
        "/api/jobs/../../etc/passwd",
        "/docs",
        "/redoc",
    ],
)
def test_nothing_but_the_page_can_be_read(client: TestClient, path: str) -> None:
    # Sent as it is: the client would put a path in order first.
    request = client.build_request("GET", PAGE + "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    assert client.send(request).status_code == 404


def test_the_page_loads_nothing_from_elsewhere_and_says_so(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    for path in (
        "/",
        "/page.css",
        "/page.js",
        "/charts.js",
        "/recorder.js",
        "/live.js",
        "/microphone.js",
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["x-content-type-options"] == "nosniff"
        text = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text
        assert "https:" not in text
        assert "innerHTML" not in text


def window(count: int = 2, picture: bytes = b"", **about: Any) -> dict[str, Any]:
    """The form of a live window: so many pictures, 32 x 48, and 640 ms of sound."""
    picture = picture or encode_jpeg(np.zeros((32, 48, 3), np.uint8), quality=90, chroma="420")
    files: list[Any] = [("frames", ("f.jpg", picture, "image/jpeg"))] * count
    files.append(("sound", ("s", np.zeros(10240, "<i2").tobytes(), "application/octet-stream")))
    times = [9.5 + 0.04 * number for number in range(count)]
    about = {"end": 10.0, "times": times, "sound_start": 9.36, "sound_rate": 16000} | about
    return {"files": files, "data": {"about": json.dumps(about)}}


def test_a_live_window_is_answered_at_once_and_nothing_of_it_is_written(
    client: TestClient, analyst: SlowAnalyst, folder: UploadFolder
) -> None:
    assert client.get("/api/model").json()["live"] == ""
    answer = client.post("/api/live", **window())
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["modality"], said["values"]) == ("video", [2.5e-7])
    assert said["box"] == pytest.approx([1 / 3, 0.375, 1 / 3, 0.5, 0.0], abs=1e-4)
    assert analyst.looked == [(2, (32, 48, 3), 10240, 10.0)]
    assert list(folder.path.iterdir()) == []


@pytest.mark.parametrize(
    ("client_host", "base", "headers"),
    [
        ("192.0.2.7", PAGE, {}),
        ("127.0.0.1", "http://lab.example", {}),
        ("127.0.0.1", PAGE, {"x-forwarded-for": "192.0.2.7"}),
        ("127.0.0.1", PAGE, {"via": "1.1 proxy"}),
    ],
)
def test_the_camera_of_another_machine_is_not_looked_at(
    analyst: SlowAnalyst, folder: UploadFolder, client_host: str, base: str, headers: dict[str, str]
) -> None:
    names = known_names("0.0.0.0", ["lab.example"])
    app = make_app(analyst, limits=Limits(), folder=folder, names=names, any_address=True)
    with TestClient(app, base_url=base, client=(client_host, 5), headers=headers) as client:
        assert "must not leave its machine" in client.get("/api/model").json()["live"]
        assert error(client.post("/api/live", **window()), 403) == "not-live"
    assert analyst.looked == []


@pytest.mark.parametrize(
    ("form", "status", "message"),
    [
        (window(picture=b"no picture"), 422, "jpeg"),
        (window(times=[9.5]), 422, "2 frames with 1 times"),
        (window(times=[9.5, 9.5]), 422, "after one of 9.500 s"),
        (window(end="soon"), 422, "about: end: "),
        (window(end=float("-inf")), 422, "about: end: "),
        (window(sound_start=1e305), 422, "about: sound_start: "),
        (window(sound_rate=0), 422, "about: sound_rate: "),
        (window() | {"data": {}}, 422, "form fields about, frames and sound"),
        (window(count=201), 413, "up to 200 frames"),
    ],
)
def test_a_live_window_that_is_none_is_refused_in_one_line(
    client: TestClient, form: dict[str, Any], status: int, message: str
) -> None:
    answer = client.post("/api/live", **form)
    error(answer, status)
    assert message in answer.json()["error"]["message"].lower()
    assert "\n" not in answer.json()["error"]["message"]


def test_the_endpoints_are_documented(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/api/model", "/api/predict", "/api/jobs", "/api/jobs/{id}", "/api/live"}
    assert {"200", "403", "413", "421", "422", "503"} <= set(
        paths["/api/predict"]["post"]["responses"]
    )


@pytest.mark.parametrize(("owner", "name"), [(UploadFile, "write"), (UploadFolder, "save")])
def test_an_upload_for_which_there_is_no_room_is_told_to_both_sides(
    client: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    owner: type,
    name: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(owner, name, full)
    for path in ("/api/predict", "/api/jobs"):
        answer = client.post(path, files=sent())
        assert error(answer, 507) == "not-kept"
        assert "cannot be kept (no space left on device)" in answer.json()["error"]["message"]
    assert caplog.text.count("make room in") == 2


def test_nobody_is_kept_waiting_when_the_page_ends(
    analyst: SlowAnalyst, folder: UploadFolder
) -> None:
    analyst.go.clear()
    names = known_names("localhost")
    app = make_app(analyst, limits=Limits(), folder=folder, names=names, is_ending=lambda: True)
    with TestClient(app, base_url=PAGE) as client:
        assert error(client.post("/api/predict", files=sent()), 503) == "ended"


def test_uploads_are_gone_when_the_page_ends(analyst: SlowAnalyst, folder: UploadFolder) -> None:
    analyst.go.clear()
    app = make_app(analyst, limits=Limits(), folder=folder, names=known_names("localhost"))
    with TestClient(app, base_url=PAGE) as client:
        client.post("/api/jobs", files=sent())
        assert len(list(folder.path.iterdir())) == 1
    assert not folder.path.exists()
    assert not [thread for thread in threading.enumerate() if thread.name == "hicmae-page"]
