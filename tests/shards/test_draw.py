"""Random numbers that follow from names."""

import numpy as np
import pytest

from shards.reading.draw import uniform_draw


def test_draws_are_the_same_on_every_machine() -> None:
    # Where a clip begins hangs on these; other numbers would be another training run.
    assert uniform_draw(0, 0, "a/0001", 0) == 0.5589493831460346
    assert uniform_draw(0, 0, "a/0001", 0) != uniform_draw(0, 0, "a/0001", 1)
    assert uniform_draw(1, 12) != uniform_draw(11, 2)
    assert uniform_draw("1") != uniform_draw(1)
    with pytest.raises(TypeError):  # what it looks like as text depends on the NumPy
        uniform_draw(np.int64(1))  # type: ignore[arg-type]


def test_draws_are_uniform_and_do_not_follow_from_their_neighbours() -> None:
    draws = np.array([uniform_draw(3, 0, f"sample/{number:05d}", 0) for number in range(20000)])
    assert 0 <= draws.min() <= draws.max() < 1
    # Five standard deviations of a binomial count with 20000 trials of 1/20.
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(20000 * 0.05 * 0.95)
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 5 / np.sqrt(len(draws))
    next_epoch = np.array([uniform_draw(3, 1, f"sample/{n:05d}", 0) for n in range(20000)])
    assert abs(np.corrcoef(draws, next_epoch)[0, 1]) < 5 / np.sqrt(len(draws))
