"""Shards that many tests of this folder read: made once a session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards.receipts import page
from tests.support.shard_fixtures import make_sample, write_shards
from tests.support.shared import made_once
from tests.support.stream_fixtures import NUM_SAMPLES


@pytest.fixture(scope="module", autouse=True)
def no_receipt_pictures() -> Iterator[None]:
    """Receipts without their pictures, which take as long as a small build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_pictures", lambda folder, *_: folder.mkdir(exist_ok=True) or [])
        yield


@pytest.fixture(scope="session")
def six_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of 23 samples, to be read only."""
    samples = [make_sample(number) for number in range(NUM_SAMPLES)]
    return made_once(tmp_path_factory, "six-shards", lambda folder: write_shards(folder, samples))


@pytest.fixture
def copied_shards(six_shards: Path, tmp_path: Path) -> Path:
    """A copy of them to damage."""
    return Path(shutil.copytree(six_shards, tmp_path / "copy"))
