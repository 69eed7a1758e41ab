"""Files are whole or not at all, and an error of the system names the file and one way out."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from hicmae.files import telling_name, whole_file, whole_folder
from hicmae.processes import ending_in_order
from hicmae.settings import ModelConfig
from tests.support.build_fixtures import run_here
from tests.support.media_files import write_sound
from tests.support.prediction_fixtures import talk, write_checkpoint, write_talking
from tests.support.system_faults import Faults


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures", "one_decoding_process")
@pytest.mark.parametrize(
    ("line", "least"),
    [
        ("predict {media}/a.wav {media}/b.wav --checkpoint {media}/net --out {out}", 10),
        ("checkpoint average {media}/net {media}/other --out {out}", 8),
        ("checkpoint info {media}/net --json {out}/facts.json", 4),
        ("shards build {media}/v.mp4 --faces none --out {out}", 8),
    ],
)
def test_at_every_write_of_a_verb_the_line_says_which_file_could_not_be_written(
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    faults: Faults,
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    least: int,
) -> None:
    monkeypatch.setattr("shards.building.build.run_in_order", run_here)
    for name, seed in (("net", 0), ("other", 1)):
        write_checkpoint(tmp_path / name, tiny_model_config, seed=seed)
    write_talking(tmp_path / "v.mp4", 0.8)
    for name in "ab":
        write_sound(tmp_path / f"{name}.wav", talk(0.8, 16000), 16000)
    for at in itertools.count(1):
        results = tmp_path / f"results{at}"
        said = faults.arm(results, at)
        done = command(line.format(media=tmp_path, out=results / "out"))
        if faults.calls < at:
            break
        assert (done.status, len(done.err.splitlines())) == (2, 1), (at, done.err)
        assert said in done.err
        assert str(results) in done.err
        assert "/." not in done.err, "hidden names say nothing to the user"
        assert not list(results.rglob(".out*")), "nothing half-written is left"
    assert done.status == 0
    assert at > least


@pytest.mark.parametrize("letters", ["x" * 255, "面" * 85])
def test_the_longest_names_are_written(tmp_path: Path, letters: str) -> None:
    for kind in ("new", "replaced"):
        with whole_file(tmp_path / letters) as beside:
            beside.write_text(kind)
        assert (tmp_path / letters).read_text() == kind
    (tmp_path / letters).unlink()
    for kind in ("new", "replaced"):
        with whole_folder(tmp_path / letters) as beside:
            (beside / "a").write_text(kind)
        assert (tmp_path / letters / "a").read_text() == kind
    assert [path.name for path in tmp_path.iterdir()] == [letters]


def test_of_a_folder_that_is_linked_the_link_is_replaced(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "disk", tmp_path / "made"
    elsewhere.mkdir()
    (elsewhere / "old").touch()
    folder.symlink_to(elsewhere)
    with whole_folder(folder) as beside:
        (beside / "new").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "made"]
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert (elsewhere / "old").exists()


def test_what_killed_processes_left_of_a_folder_is_removed_and_what_others_write_is_not(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a[1].mp4"
    for kind in ("new", "replaced"):
        child = os.fork()
        if not child:
            with whole_folder(folder) as beside:
                (beside / "half").write_text("x")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        (left,) = (path for path in tmp_path.iterdir() if (path / "half").exists())
        with whole_folder(folder) as beside:
            assert not left.exists()
            (beside / "a").write_text(kind)
            with whole_folder(folder) as another:
                (another / "a").write_text("another")
            assert beside.exists()
        assert (folder / "a").read_text() == kind
        assert [path.name for path in tmp_path.iterdir()] == ["a[1].mp4"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_folder_that_is_there_outlives_an_end_between_the_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    folder, replace = tmp_path / "a.b", Path.replace

    def end(path: Path, target: Path) -> Path:
        if target == folder and path.name.endswith(".part"):
            monkeypatch.undo()
            os.kill(os.getpid(), number)
        return replace(path, target)

    with whole_folder(folder) as beside:
        (beside / "a").write_text("old")
    child = os.fork()
    if not child:
        monkeypatch.setattr(Path, "replace", end)
        with suppress(SystemExit), ending_in_order(), whole_folder(folder) as beside:
            (beside / "a").write_text("new")
        os._exit(0)
    os.waitpid(child, 0)
    if number == signal.SIGTERM:
        assert [path.name for path in tmp_path.iterdir()] == ["a.b"]
    with pytest.raises(KeyError), whole_folder(folder):
        raise KeyError
    assert (folder / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.b"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("library", ["torch", "safetensors", "av", "pyarrow"])
def test_what_libraries_wrap_is_an_error_of_the_system_again(tmp_path: Path, library: str) -> None:
    def write() -> None:
        with whole_file(tmp_path / "weights") as beside:
            if library == "torch":
                beside.symlink_to("/dev/full")
                torch.save({"a": torch.zeros(100_000)}, beside)
            elif library == "av":
                av.open(beside)
            else:
                beside.mkdir()
                if library == "pyarrow":
                    pq.write_table(pa.table({"a": [0]}), beside)
                save_file({"a": torch.zeros(10)}, beside)

    with pytest.raises(OSError, match=r"weights") as caught:
        write()
    assert ".part" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/none/runs/emotion", "emotion"),
        ("/none/runs/emotion/audio-video", "emotion/audio-video"),
        ("/none/runs/emotion/video/seed-0", "emotion/video/seed-0"),
        ("/none/runs/emotion/fold-1", "emotion/fold-1"),
        ("runs/tiny/checkpoints/last", "tiny/checkpoints/last"),
        ("owner/network", "network"),
        ("video", "video"),
    ],
)
def test_two_folders_of_a_kind_are_told_apart(folder: str, name: str) -> None:
    assert telling_name(Path(folder)) == name
