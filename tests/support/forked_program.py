"""A program ``hicmae`` for scripts of tests, which has this process fork the command.

What a script starts anew imports for seven seconds of processor time. The fork finds the words, the
environment and the working folder of the program, and is not stopped by a signal to it.
"""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hicmae.__main__ import main
from hicmae.processes import VerbProcess

_CLIENT = """import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    told = json.dumps([os.getcwd(), sys.argv[1:], dict(os.environ)])
    server.sendall(told.encode() + b"\\n")
    said = b""
    while more := server.recv(2**16):
        said += more
        os.write(1, said[:-1])
        said = said[-1:]
sys.exit(said[0])  # the last byte is the status
"""
_STARTING = threading.Lock()  # ``forking`` sets variables of this process for a moment


class _Command(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        folder, words, environment = json.loads(self.rfile.readline())
        with _STARTING:
            process = VerbProcess([folder, *words], environment, f"{__name__}:run_there")
        for line in process.output:  # as it is said: several processes write to one file
            self.wfile.write(line)
        self.wfile.write(bytes([process.wait() or 0]))


def run_there(words: list[str]) -> int:
    """In a forked process: be the program in a folder."""
    os.chdir(words[0])
    return main(words[1:])


@contextmanager
def forked_program(folder: Path) -> Iterator[str]:
    """Answer programs until the block is left.

    Args:
        folder: An empty one with a short path: a socket's name has at most 107 bytes.

    Yields: what a shell calls in place of ``hicmae``.
    """
    address, client = folder / "socket", folder / "client.py"
    client.write_text(_CLIENT.format(address=str(address)))
    with socketserver.ThreadingUnixStreamServer(str(address), _Command) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"{sys.executable} -SE {client}"
        finally:
            server.shutdown()
