"""Files are whole or not at all, and an error of the system names the file and one way out."""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hicmae.files import whole_file, whole_folder
from hicmae.prediction.process import DecodingProcess
from hicmae.settings import ModelConfig
from tests.support.media_files import write_sound
from tests.support.prediction_fixtures import talk, write_checkpoint, write_talking

DECODING = DecodingProcess()
ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE]
ERRORS += [errno.EACCES, errno.ENAMETOOLONG, errno.EFBIG, errno.EILSEQ]


@pytest.fixture(scope="module", autouse=True)
def one_decoding_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, DECODING:
        patch.setattr("hicmae.prediction.model.DecodingProcess", lambda: DECODING)
        patch.setattr(DECODING, "close", lambda: None)
        yield
        patch.undo()


class Faults:
    """Makes the n-th call that changes something below a folder fail with an error of the system:
    opening for writing, writing, making a folder, renaming, setting a mode.

    Attributes:
        folder: Below it calls count; none: nowhere.
        at: Which of them fails.
        number: Of the error.
        calls: How many came.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.folder: Path | None = None
        self.at = self.number = self.calls = 0
        self._makes = os.mkdir
        patch.setattr(io, "open", self._opening(io.open))
        patch.setattr(builtins, "open", self._opening(builtins.open))
        for name in ("mkdir", "replace", "chmod"):
            patch.setattr(os, name, self._changing(getattr(os, name)))

    def arm(self, folder: Path, at: int) -> str:
        """Begin to count; gives what the error will say."""
        self.folder, self.at, self.calls = folder, at, 0
        self.number = ERRORS[at % len(ERRORS)]
        return os.strerror(self.number).lower()

    def step(self, *names: str) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise OSError(self.number, os.strerror(self.number), *names)

    def _counts(self, path: Any) -> bool:
        known = self.folder is not None and isinstance(path, str | Path)
        return known and Path(path).is_relative_to(self.folder)

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if not self._counts(file) or not set(mode) & set("wax+"):
                return real(file, mode, *rest, **named)
            self.step(str(file))
            return _FailingFile(real(file, mode, *rest, **named), self.step)

        return opened

    def _changing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def changed(path: Any, *rest: Any, **named: Any) -> Any:
            there = real is self._makes and Path(path).is_dir()  # which is no error
            if self._counts(path) and not there:
                self.step(str(path))
            return real(path, *rest, **named)

        return changed


class _FailingFile:
    """A file that can be opened and not be written to; as with the real ones, no name is told."""

    def __init__(self, file: Any, fail: Callable[[], None]) -> None:
        self._file, self._fail = file, fail

    def write(self, block: Any) -> int:
        self._fail()
        return int(self._file.write(block))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _FailingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "least"),
    [
        ("predict {media}/a.wav {media}/b.wav --checkpoint {media}/net --out {out}", 10),
        ("checkpoint average {media}/net {media}/net --out {out}", 8),
        ("checkpoint info {media}/net --json {out}/facts.json", 4),
        ("shards build {media}/v.mp4 --faces none --out {out}", 8),
    ],
)
def test_at_every_write_of_a_verb_the_line_says_which_file_could_not_be_written(
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    faults: Faults,
    command: Callable[..., Any],
    line: str,
    least: int,
) -> None:
    write_checkpoint(tmp_path / "net", tiny_model_config)
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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_what_libraries_wrap_is_an_error_of_the_system_again(tmp_path: Path, library: str) -> None:
    def write() -> None:
        with whole_file(tmp_path / "weights") as beside:
            if library == "torch":
                beside.symlink_to("/dev/full")
                torch.save({"a": torch.zeros(100_000)}, beside)
            else:
                beside.mkdir()
                save_file({"a": torch.zeros(10)}, beside)

    with pytest.raises(OSError, match=r"weights") as caught:
        write()
    assert ".part" not in str(caught.value)
