"""The memory of a reader does not grow with what it has read."""

from __future__ import annotations

import gc
import itertools
import os
from pathlib import Path

import pytest

from tests.support.shard_fixtures import make_sample, write_shards
from tests.support.stream_fixtures import stream_of


def private_megabytes() -> float:
    """Memory of this process that it shares with none, 1e6 bytes."""
    gc.collect()
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc of Linux")
def test_a_reader_is_as_large_after_ten_thousand_samples_as_after_two(tmp_path: Path) -> None:
    samples = [make_sample(number, side=96, num_frames=12) for number in range(90)]
    write_shards(tmp_path, samples, samples_per_shard=1)  # more shards than are kept open
    batches = iter(stream_of(tmp_path, batch_size=20))
    sizes = []
    for _ in range(6):
        for _ in itertools.islice(batches, 100):
            pass
        sizes.append(private_megabytes())
    # A leak of one clip in ten would be 110 kB x 1000; one file name a sample, 1 MB.
    assert sizes[-1] - sizes[0] < 3, sizes
