"""Files are whole or not at all, and an error of the system names the file and one way out."""

from __future__ import annotations

import builtins
import errno
import io
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
from tests.support.prediction_fixtures import talk, write_checkpoint

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
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int, int], Callable[[], int]]:
    """Makes the n-th call that changes something below a folder fail with an error of the system:
    opening for writing, writing, making a folder, renaming, waiting for the disk.
    """

    makes = os.mkdir

    def arm(folder: Path, number: int, at: int) -> Callable[[], int]:
        calls = 0

        def step(*names: str) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(number, os.strerror(number), *names)

        def below(path: Any) -> bool:
            return isinstance(path, str | Path) and Path(path).is_relative_to(folder)

        def opening(real: Callable[..., Any]) -> Callable[..., Any]:
            def opened(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
                if not below(file) or not set(mode) & set("wax+"):
                    return real(file, mode, *rest, **named)
                step(str(file))
                return _FailingFile(real(file, mode, *rest, **named), step)

            return opened

        def changing(real: Callable[..., Any]) -> Callable[..., Any]:
            def changed(path: Any, *rest: Any, **named: Any) -> Any:
                there = real is makes and Path(path).is_dir()  # which is no error
                if below(path) and not there:
                    step(str(path))
                return real(path, *rest, **named)

            return changed

        monkeypatch.setattr(io, "open", opening(io.open))
        monkeypatch.setattr(builtins, "open", opening(builtins.open))
        for name in ("mkdir", "replace", "chmod"):
            monkeypatch.setattr(os, name, changing(getattr(os, name)))
        return lambda: calls

    return arm


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 24))
def test_predict_says_which_file_could_not_be_written_at_every_write(
    tmp_path: Path,
    tiny_model_config: ModelConfig,
    failing: Callable[..., Callable[[], int]],
    command: Callable[..., Any],
    at: int,
) -> None:
    network = write_checkpoint(tmp_path / "net", tiny_model_config)
    sounds = [write_sound(tmp_path / f"{n}.wav", talk(0.8, 16000), 16000) for n in "ab"]
    out, number = tmp_path / "out", ERRORS[at % len(ERRORS)]
    calls = failing(out, number, at)
    done = command("predict", *sounds, "--checkpoint", network, "--out", out)
    if calls() < at:
        assert done.status == 0
        pytest.skip(f"only {calls()} writes")
    assert done.status == 2
    assert os.strerror(number).lower() in done.err
    assert str(out) in done.err
    assert "/." not in done.err, "hidden names say nothing to the user"
    assert len(done.err.splitlines()) == 1
    assert not list(out.rglob(".*"))


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
