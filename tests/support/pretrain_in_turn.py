"""Many runs of processes that start once, for the tests of many engines.

A script: each process makes every run of the JSON file that it is given, a list of lists of words
behind ``hicmae``. A process group is made for the first run and serves all of them.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from hicmae.__main__ import main


def run_in_turn(
    commands: list[list[str]], folder: Path, repository: Path, *, processes: int = 2
) -> None:
    """Make the runs, each in the same processes, and wait for the last one."""
    path = folder / "commands.json"
    path.write_text(json.dumps(commands), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0"}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    logs = [folder / f"in-turn-{rank}.log" for rank in range(processes)]
    started = []
    for rank, log in enumerate(logs):
        with log.open("w", encoding="utf-8") as file:
            started.append(
                subprocess.Popen(
                    [sys.executable, __file__, str(path)],
                    env={**os.environ, **shared, "LOCAL_RANK": str(rank)},
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        for process, log in zip(started, logs, strict=True):
            assert process.wait(timeout=300) == 0, log.read_text(encoding="utf-8")[-3000:]
    finally:
        for process in started:
            process.kill()
            process.wait()


if __name__ == "__main__":
    for words in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if status := main(words):
            sys.exit(f"{' '.join(words)}: status {status}")
