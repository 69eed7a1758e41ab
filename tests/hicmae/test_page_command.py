"""Where the page listens, and what is said when it cannot."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hicmae.__main__ import main
from hicmae.page.command import bound_socket, url_of
from hicmae.page.guard import is_loopback


def test_any_free_port_is_taken_and_told() -> None:
    with bound_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert url_of("127.0.0.1", listener) == f"http://localhost:{port}/"
        assert url_of("lab.example", listener) == f"http://lab.example:{port}/"
        assert url_of("2001:db8::1", listener) == f"http://[2001:db8::1]:{port}/"
        with socket.create_connection(("127.0.0.1", port)):
            pass


def test_a_port_that_is_taken_is_said_before_a_network_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bound_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        nowhere = str(tmp_path / "nowhere")
        assert main(["serve", "--checkpoint", nowhere, "--port", str(port)]) == 2
    line = capsys.readouterr().err
    assert f"cannot listen at 127.0.0.1, port {port} (address already in use)" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=r"must lie in 0\.\.65535"):
        bound_socket("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"cannot listen at 192\.0\.2\.1"
    ):  # for documentation alone
        bound_socket("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("lab.example", False),
    ],
)
def test_what_is_reached_from_this_machine_alone(host: str, local: bool) -> None:
    assert is_loopback(host) is local
