"""Fixtures that many tests share: the tiny network and files outside the repository."""

from __future__ import annotations

import gc
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path

import pytest

from hicmae.__main__ import main
from hicmae.prediction.process import DecodingProcess
from hicmae.processes import IMPORTED
from hicmae.settings import InputConfig, ModelConfig
from tests.support.system_faults import Faults

REPOSITORY = Path(__file__).resolve().parent.parent

# Tests use no network and no display; a run they start must not ask for an account.
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HICMAE_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# The networks of tests are so small that a second thread only waits for the first, and burns a
# core at it: on two busy cores, four times the processor time. Set before PyTorch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Until all tests are imported: see ``pytest_collection_finish``.
gc.disable()
# No test cuts the power, and a training waits for the disk 24 times; a closed file stays an error.
os.fsync = os.fstat
# What runs import as they go; none of it starts a thread. DeepSpeed looks for a GPU, which no fork
# could use then; its optimizer Muon, which every run of it imports, takes PyTorch's compiler along.
_OF_RUNS = (
    *("pretrain.plan", "pretrain.data", "pretrain.checkpoints", "pretrain.gallery"),
    *("pretrain.guard", "pretrain.health", "pretrain.meter", "pretrain.probes", "pretrain.zero"),
    *("pyarrow.dataset", "torch.distributed.algorithms.ddp_comm_hooks.default_hooks"),
)
_OF_SLOW_RUNS = (
    *("deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer"),
    "deepspeed.runtime.superoffload.superoffload_stage3",
)


def pytest_configure(config: pytest.Config) -> None:
    """A worker has one server from which processes fork: it is started by the first test that needs
    it, and has imported what any of them does.
    """
    slow = () if config.getoption("markexpr") == "not slow" else _OF_SLOW_RUNS
    forkserver.set_forkserver_preload([*IMPORTED, *_OF_RUNS, *slow])
    forkserver.set_forkserver_preload = lambda _: None


# What takes minutes: real clusters, engines, walk-throughs.
_DEAREST = ("test_demo.py", "test_slurm.py", "test_zero.py", "test_processes.py", "test_readme.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests: a long one at the end would leave cores idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name not in _DEAREST, item.path not in slow))


def pytest_collection_finish() -> None:
    """What has been imported is never garbage: to look for some in it took a tenth of the time."""
    gc.enable()
    gc.freeze()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@dataclass(frozen=True)
class Finished:
    """A command that has run: its exit status and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Runs ``hicmae WORDS`` in this process, which spares the imports of one of its own.

    The words come one by one, or as one line that is split as a shell does.
    """

    def run(*words: object) -> Finished:
        capsys.readouterr()
        line = shlex.split(str(words[0])) if len(words) == 1 else [str(word) for word in words]
        status = main(line)
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.fixture
def no_figures() -> Iterator[None]:
    """Figures are written, and nobody looks at one."""
    from tests.support.testing_fixtures import (
        blank_figures,  # PyTorch, before which comes the above
    )

    with blank_figures():
        yield


@pytest.fixture(scope="session")
def decoding() -> Iterator[DecodingProcess]:
    """Decodes for all tests of a worker: to start it takes longer than most of them."""
    with DecodingProcess() as process:
        yield process


@pytest.fixture
def one_decoding_process(
    decoding: DecodingProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Every predictor of a test decodes in the process of the worker, and leaves it running."""
    monkeypatch.setattr("hicmae.prediction.model.DecodingProcess", lambda: decoding)
    monkeypatch.setattr("hicmae.prediction.model.EmotionPredictor.close", lambda _: None)
    yield
    assert decoding._ahead.empty()


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Folder of the numbers to meet: ``HICMAE_PARITY_DIR``, else ``../shared/parity``."""
    return _outside("HICMAE_PARITY_DIR", "shared/parity")


@pytest.fixture(scope="session")
def clips_dir() -> Path:
    """Folder of real recordings: ``HICMAE_CLIPS_DIR``, else ``../shared/clips``."""
    return _outside("HICMAE_CLIPS_DIR", "shared/clips")


@pytest.fixture(scope="session")
def yunet_file() -> Path:
    """The face detector's file: ``HICMAE_YUNET``, else ``../shared/models/…``."""
    return _outside("HICMAE_YUNET", "shared/models/face_detection_yunet_2023mar.onnx")


@pytest.fixture(scope="session")
def tiny_model_config() -> ModelConfig:
    """A network that trains in milliseconds: 8 x 2 x 2 tubelets, 4 x 2 filter-bank patches."""
    return ModelConfig(
        input=InputConfig(
            image_size=32,
            num_frames=16,
            frame_stride=1,  # 0.64 s: as long as its 64 filter-bank frames
            fbank_frames=64,
            mel_bins=32,
        ),
        encoder_dim=32,
        encoder_heads=2,
        encoder_depth=2,
        fusion_depth=1,
        decoder_dim=32,
        decoder_heads=2,
        decoder_depth=3,
        feature_layers=(1, 2),
    )


def _outside(variable: str, beside: str) -> Path:
    """A path from the environment or beside the repository; the test is skipped if absent."""
    path = Path(os.environ.get(variable) or REPOSITORY.parent / beside)
    if not path.exists():
        pytest.skip(f"{path} is absent (set {variable} to where it is)")
    return path
