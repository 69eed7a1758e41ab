"""The array script: it parses, and each of its tasks builds its part and goes on with it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path("shards/slurm/build.sbatch")

# Stands for the programs the script calls: says what it was given; fails as $FAIL says.
PROGRAM = """#!/usr/bin/env bash
echo "$(basename "$0"): $*"
if [[ $(basename "$0") == hicmae && -n ${SLOW:-} ]]; then
    trap 'exit 143' TERM
    kill -USR1 "$PPID"
    for _ in $(seq 100); do sleep 0.1; done
fi
exit ${FAIL:-0}
"""


@pytest.fixture
def script(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script, with programs that say how they were called."""
    (tmp_path / "bin").mkdir()
    for name in ("hicmae", "scontrol"):
        (tmp_path / "bin" / name).write_text(PROGRAM)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    return repository / SCRIPT


def run(script: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_script_parses_and_its_array_is_as_long_as_its_parts(repository: Path) -> None:
    subprocess.run(["bash", "-n", str(repository / SCRIPT)], check=True)
    text = (repository / SCRIPT).read_text()
    array = re.search(r"#SBATCH --array=1-(\d+)", text)
    parts = re.search(r"HICMAE_PARTS:-(\d+)", text)
    assert array
    assert parts
    assert array[1] == parts[1]
    assert max(map(len, text.splitlines())) <= 120


def test_a_task_builds_its_part_into_a_folder_of_its_own(script: Path, tmp_path: Path) -> None:
    done = run(script, str(tmp_path / "parts"), "a b", "--faces", "none")
    assert done.returncode == 0
    folder = tmp_path / "parts/part-0003-of-0016"
    assert f"hicmae: shards build a b --faces none --part 3/16 --out {folder}" in done.stdout
    folder.mkdir(parents=True)
    (folder / "index.json").touch()
    again = run(script, str(tmp_path / "parts"), "a b")
    assert again.returncode == 0
    assert "is there already" in again.stdout
    assert "hicmae:" not in again.stdout


def test_a_task_out_of_time_goes_back_into_the_queue_until_it_was_there_too_often(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW", "1")
    done = run(script, str(tmp_path), "in")
    assert "scontrol: requeue 77_3" in done.stdout
    monkeypatch.setenv("SLURM_RESTART_COUNT", "50")
    done = run(script, str(tmp_path), "in")
    assert done.returncode == 1
    assert "scontrol:" not in done.stdout


def test_what_fails_stays_ended(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "2")
    done = run(script, str(tmp_path), "in")
    assert done.returncode == 2
    assert "scontrol:" not in done.stdout
    assert run(script, str(tmp_path)).returncode == 2  # no source
    monkeypatch.setenv("HICMAE_PARTS", "2")
    done = run(script, str(tmp_path), "in")
    assert done.returncode == 2
    assert "task 3: give --array=1-2, or set HICMAE_PARTS" in done.stderr
    monkeypatch.setenv("HICMAE_PARTS", "08")  # eight to a reader, to a shell no number
    done = run(script, str(tmp_path), "in")
    assert done.returncode == 2
    assert done.stderr == "HICMAE_PARTS = 08 (must be a whole number from 1)\n"
