"""Choice of frames and of the sound that belongs to them."""

import numpy as np
import pytest

from hicmae.settings import InputConfig
from hicmae.views import (
    CROPS,
    ViewGrid,
    first_equal_segments,
    sound_span,
    test_views,
    train_indices,
)

CLIP = InputConfig(num_frames=4, frame_stride=3)


def test_training_frames_keep_the_exact_stride() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        indices = train_indices(40, CLIP, rng.random())
        assert indices.dtype == np.int64
        assert np.array_equal(np.diff(indices), [3, 3, 3])
        assert 0 <= indices[0] <= indices[-1] <= 39


def test_every_start_of_a_training_clip_is_equally_likely_and_both_ends_are_reached() -> None:
    rng = np.random.default_rng(1)
    # 14 frames hold a clip of span 10 at the starts 0 to 4.
    starts = np.array([train_indices(14, CLIP, rng.random())[0] for _ in range(5000)])
    counts = np.bincount(starts, minlength=5)
    assert len(counts) == 5
    # Five standard deviations of a binomial count with 5000 trials of 1/5.
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(5000 * 0.2 * 0.8)


def test_a_sample_shorter_than_a_clip_holds_its_last_frame() -> None:
    rng = np.random.default_rng(2)
    assert train_indices(8, CLIP, rng.random()).tolist() == [0, 3, 6, 7]
    assert train_indices(4, CLIP, rng.random()).tolist() == [0, 3, 3, 3]
    assert train_indices(1, CLIP, rng.random()).tolist() == [0, 0, 0, 0]


def test_a_sample_exactly_as_long_as_the_clip_has_one_start() -> None:
    rng = np.random.default_rng(3)
    assert {tuple(train_indices(10, CLIP, rng.random())) for _ in range(50)} == {(0, 3, 6, 9)}
    assert {train_indices(11, CLIP, rng.random())[0] for _ in range(50)} == {0, 1}


def test_the_draw_runs_from_the_first_start_to_the_last() -> None:
    below_one = float(np.nextafter(1.0, 0.0))
    for draw, start in ((0.0, 0), (0.5, 145), (below_one, 290)):  # 291 starts: 10 of 300 frames
        assert train_indices(300, CLIP, draw).tolist() == [start, start + 3, start + 6, start + 9]


@pytest.mark.parametrize("num_segments", [1, 2, 3, 5, 8, 50])
@pytest.mark.parametrize("available", [1, 7, 12, 13, 29, 200, 601])
def test_test_views_spread_evenly_over_the_sample(available: int, num_segments: int) -> None:
    views = test_views(available, 4, 3, num_segments)
    assert len(views) == num_segments
    for view in views:
        assert view.shape == (4,)
        assert view.max() < available
        assert np.all(view % 3 == 0)
    starts = [int(view[0]) // 3 for view in views]
    last = max(0, (available + 2) // 3 - 4)
    if num_segments == 1:
        assert starts == [last // 2]
    else:
        assert (starts[0], starts[-1]) == (0, last)
        exact = np.arange(num_segments) * last / (num_segments - 1)
        assert np.all(np.array(starts) <= exact + 1e-9)
        assert np.all(np.array(starts) > exact - 1)


def test_spreading_is_exact_where_floating_point_would_fall_one_short() -> None:
    # 49 * (1 / 49) is below 1 in double precision.
    assert int(49 * (1 / 49)) == 0
    assert test_views(5, 4, 1, 50)[-1].tolist() == [1, 2, 3, 4]


def test_views_of_a_short_sample_coincide_and_repeat_the_last_frame_read() -> None:
    for view in test_views(8, 4, 3, 2):
        assert view.tolist() == [0, 3, 6, 6]


@pytest.mark.parametrize(("frames", "wanted"), [(8, [0, 0, 0]), (13, [0, 0, 2]), (16, [0, 1, 2])])
def test_segments_that_are_the_same_clip_are_the_first_such(frames: int, wanted: list[int]) -> None:
    assert first_equal_segments(frames, CLIP, 3) == wanted


def test_views_that_differ_are_all_crops_of_segments_that_do() -> None:
    grid = ViewGrid(segments=3, crops=("whole", "mirrored"))
    assert grid.differing([0, 0, 2]) == [0, 1, 4, 5]


def test_sound_is_found_by_time_at_any_frame_rate() -> None:
    assert sound_span(0, InputConfig()) == (0, 40960)
    assert sound_span(25, InputConfig()) == (16000, 16000 + 40960)
    ntsc = InputConfig(fps=29.97, frame_stride=4)
    start, stop = sound_span(2997, ntsc)
    assert start == 100 * 16000
    assert sound_span(1, ntsc)[0] == 534  # 533.9
    assert stop - start == ntsc.clip_samples == round(64 / 29.97 * 16000)


def test_a_sample_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="0 frames"):
        train_indices(0, CLIP, 0.0)
    with pytest.raises(ValueError, match="0 frames"):
        test_views(0, 4, 3, 2)
    with pytest.raises(ValueError, match="num_segments = 0"):
        test_views(10, 4, 3, 0)


def test_views_are_named_and_crops_lie_where_their_names_say() -> None:
    assert ViewGrid(segments=1).names == ("1:whole",)
    names = ViewGrid(segments=2, crops=("whole", "mirrored")).names
    assert names == ("1:whole", "1:mirrored", "2:whole", "2:mirrored")
    for name, crop in CROPS.items():
        room, middle = 1 - crop.side, (1 - crop.side) / 2
        top = 0 if "top" in name else room if "bottom" in name else middle
        left = 0 if "left" in name else room if "right" in name else middle
        assert crop.side == (1 if name in ("whole", "mirrored") else 0.875)
        assert (crop.left, crop.top, crop.mirrored) == (left, top, "mirrored" in name), name
