"""The grid of reconstructions: its layout, and where each pixel of it comes from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hicmae.reconstruction import Reconstruction, Versions
from pretrain.gallery import HONEST_CAPTION, PAPER_CAPTION, draw_reconstructions

# One colour for each version of the faces, RGB.
COLOURS = {"original": (1.0, 0.0, 0.0), "masked": (0.0, 1.0, 0.0), "filled": (0.0, 0.0, 1.0)}


def coloured(num_clips: int, num_frames: int) -> Reconstruction:
    def faces(name: str) -> torch.Tensor:
        return torch.tensor(COLOURS[name]).expand(num_clips, num_frames, 32, 32, 3)

    bank = torch.linspace(-1, 1, 64 * 32).reshape(1, 64, 32).expand(num_clips, -1, -1)
    hidden = bank.clone()
    hidden[:, 16:32, :16] = torch.nan
    return Reconstruction(
        pictures=Versions(faces("original"), faces("masked"), faces("filled")),
        banks=Versions(bank, hidden, bank),
        paper_style=False,
    )


def draw(path: Path, num_clips: int, num_frames: int = 16) -> np.ndarray:
    keys = [f"clip {number}" for number in range(num_clips)]
    draw_reconstructions(path, coloured(num_clips, num_frames), keys=keys, title="run")
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_a_clip_has_a_row_of_originals_above_masked_above_reconstructed(tmp_path: Path) -> None:
    picture = draw(tmp_path / "figures" / "grid.png", 2)
    column = picture[:, 150].tolist()
    pure = [tuple(value) for value in column if sorted(value) == [0, 0, 255]]
    runs = [colour for index, colour in enumerate(pure) if not index or pure[index - 1] != colour]
    assert runs == [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 2
    counts = [pure.count(colour) for colour in set(pure)]
    assert max(counts) - min(counts) <= 4  # all rows are equally high
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["grid.png"]


@pytest.mark.slow
def test_the_picture_grows_with_clips_and_frames(tmp_path: Path) -> None:
    one, three = draw(tmp_path / "1.png", 1), draw(tmp_path / "3.png", 3)
    assert three.shape[1] == one.shape[1]
    assert 2.3 < three.shape[0] / one.shape[0] < 3
    assert draw(tmp_path / "4.png", 1, num_frames=4).shape[1] < one.shape[1]


def test_frames_keep_their_shape_and_stand_apart(tmp_path: Path) -> None:
    picture = draw(tmp_path / "grid.png", 1)
    red = (picture == (255, 0, 0)).all(axis=-1)
    line = red[np.flatnonzero(red.any(axis=1))[5]]
    edges = np.flatnonzero(np.diff(line.astype(int)))
    assert len(edges) == 16, "eight frames with gaps"
    width = edges[1] - edges[0]
    height = int(red[:, edges[0] + width // 2].sum())
    assert width / height == pytest.approx(1, abs=0.15)


def test_the_caption_says_whose_brightness_is_shown() -> None:
    assert "interpolated from the visible" in HONEST_CAPTION
    assert "hidden truth" in PAPER_CAPTION
