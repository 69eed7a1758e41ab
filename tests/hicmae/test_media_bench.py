"""`hicmae bench speaking`: clips put side by side, found again by who speaks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import hicmae.media.bench as bench
from hicmae.media.bench import bench_speaking
from hicmae.media.faces import Face
from tests.support.speaking_faces import PANEL, SIDE, voice, write_faces


class OnePanelEach:
    """Finds the drawn face in the middle of each panel."""

    name = "panels"

    def detect(self, frame: np.ndarray) -> list[Face]:
        height, width = frame.shape[:2]
        scale = height / PANEL[0]
        middles = (np.arange(round(width / scale / PANEL[1])) + 0.5) * PANEL[1] * scale
        half = SIDE / 2 * scale
        top, bottom = height / 2 - half, height / 2 + half
        return [Face(box=np.array([x - half, top, x + half, bottom]), score=0.9) for x in middles]


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three clips; the first outlasts the next by more than any shift."""
    monkeypatch.setattr(bench, "shared_detector", lambda *_, **__: OnePanelEach())
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, seconds in enumerate((6.4, 3.2, 4.0)):
        heard = voice(10 + number, seconds)
        write_faces(folder / f"clip{number}.mp4", [heard], heard).with_suffix(".csv").unlink()
    return folder


@pytest.mark.slow
def test_the_share_that_is_right_is_of_every_window_of_clips_of_any_length(
    clips: Path, tmp_path: Path
) -> None:
    figures = bench_speaking(media=clips, json=tmp_path / "figures.json")
    # Windows of 2.56 s each 0.64 s: 7 + 2 + 3 of so many frames.
    assert [figures[name]["num"] for name in ("two", "three", "both")] == [12, 12, 24]
    for name in ("two", "three", "both"):
        assert figures[name]["right"] >= 0.75
        assert figures[name]["low"] <= figures[name]["right"] <= figures[name]["high"]
    assert figures["flagged"]["own sound"] == 0
    assert figures["flagged"]["sound of the next clip"] >= 0.6
    assert json.loads((tmp_path / "figures.json").read_text())["two"] == figures["two"]


@pytest.mark.slow
def test_a_wrong_choice_counts_as_wrong(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_HEIGHT", 72)  # a quarter: nobody looks at a mouth
    monkeypatch.setattr(bench, "_flagged", lambda *_: {})
    monkeypatch.setattr(bench.Speakers, "speaker", lambda *_: None)
    assert bench_speaking(media=clips)["both"]["right"] == 0


def test_fewer_than_three_clips_are_refused(clips: Path) -> None:
    (clips / "clip0.mp4").unlink()
    with pytest.raises(ValueError, match=r"2 clips of one talking face \(3 or more are needed\)"):
        bench_speaking(media=clips)
    with pytest.raises(ValueError, match="no such folder of clips"):
        bench_speaking(media=clips / "none")
