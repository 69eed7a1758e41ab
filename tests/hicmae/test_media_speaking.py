"""Who is speaking: the mouth that moves with the voice, in builds, receipts and predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hicmae.media.faces import FaceConfig
from hicmae.media.speaking import LEAST_SECONDS, Agreement, agreement, verdict
from hicmae.prediction.messages import WindowConfig
from hicmae.prediction.timelines import Span
from shards.building.build import NothingBuiltError, build_shards
from shards.index import read_index
from shards.receipts.facts import sample_infos
from shards.settings import BuildConfig
from tests.hicmae.test_prediction_windows import BOXES, cut
from tests.shards.test_inputs import read_samples
from tests.support.speaking_faces import PANEL, voice, write_faces

ANNA, BEN, CARL = (voice(seed, 4.0) for seed in (1, 2, 3))
TURNS = np.concatenate([ANNA, np.zeros(100)]), np.concatenate([np.zeros(100), BEN])


def config(**changes: object) -> BuildConfig:
    settings = {"faces": "boxes", "face_size": 32, "face_margin": 0.0, "workers": 1}
    return BuildConfig(**{"face_choice": "speaking", **settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two who speak by turns, with their sound and without; only read."""
    folder = tmp_path_factory.mktemp("in-turn")
    heard = write_faces(folder / "talk.mp4", TURNS, sum(TURNS))
    return heard, write_faces(folder / "mute.mp4", TURNS, None)


@pytest.mark.slow
def test_the_face_whose_mouth_goes_with_the_sound_is_built(tmp_path: Path) -> None:
    sources = [
        write_faces(tmp_path / f"{name}.mp4", (CARL, ANNA, BEN), heard)
        for name, heard in (("anna", ANNA), ("ben", BEN), ("carl", CARL))
    ]
    build_shards(sources, tmp_path / "speaking", config())
    build_shards(sources, tmp_path / "all", config(face_choice="all"))
    spoken, every = read_samples(tmp_path / "speaking"), read_samples(tmp_path / "all")
    for key, face in (("carl", 0), ("anna", 1), ("ben", 2)):
        assert np.array_equal(spoken[key][0], every[f"{key}_face{face}"][0])
    # What is not asked for costs nothing and changes nothing.
    assert all(not info.sync for _, info in sample_infos(read_index(tmp_path / "all")))


@pytest.mark.slow
def test_in_each_segment_the_one_who_speaks_in_it_is_built(
    in_turn: tuple[Path, Path], tmp_path: Path
) -> None:
    path, _ = in_turn
    build_shards([path], tmp_path / "shards", config(max_seconds=4))
    infos = [info for _, info in sample_infos(read_index(tmp_path / "shards"))]
    assert [(info.key, info.start_seconds) for info in infos] == [("talk-000", 0), ("talk-001", 4)]
    every = config(face_choice="all", max_seconds=4)
    build_shards([path], tmp_path / "all", every)
    first, second = (read_samples(tmp_path / name) for name in ("shards", "all"))
    assert np.array_equal(first["talk-000"][0], second["talk_face0-000"][0])
    assert np.array_equal(first["talk-001"][0], second["talk_face1-001"][0])


@pytest.mark.slow
def test_in_each_window_the_one_who_speaks_in_it_is_predicted(in_turn: tuple[Path, Path]) -> None:
    path, silent = in_turn
    found, windows, _ = cut(path, WindowConfig(face_choice="speaking", hop=0.5))
    assert [track.name for track in found.tracks] == ["face0", "face1"]
    assert found.tracks[0].boxes.max() < PANEL[1] < found.tracks[1].boxes[:, 0].min() + 40
    middles = {window.track: [] for window in windows}  # type: ignore[var-annotated]
    for window in windows:
        middles[window.track].append((window.start_seconds + window.end_seconds) / 2)
    # About the change the wider span that is heard holds both.
    assert max(middles["face0"]) < 4 + LEAST_SECONDS / 2
    assert min(middles["face1"]) > 4 - LEAST_SECONDS / 2
    assert [track.num_windows for track in found.tracks] == list(map(len, middles.values()))
    found, windows, _ = cut(silent, WindowConfig(face_choice="speaking"))
    assert "no sound tells who speaks: every face is predicted" in found.notes
    assert {window.track for window in windows} == {"face0", "face1"}


@pytest.mark.slow
def test_a_span_is_of_the_one_who_speaks_in_it(in_turn: tuple[Path, Path]) -> None:
    path, silent = in_turn
    asked = ((0.5, 3.5, ""), (4.5, 7.5, ""), (4.5, 7.5, "face0"), (5.0, 5.4, ""))
    spans = tuple(Span(start=start, end=end, face=face) for start, end, face in asked)
    told = {}
    for choice in ("all", "speaking"):
        found, windows, _ = cut(path, WindowConfig(face_choice=choice), spans=spans)
        assert {window.track for window in windows} == {track.name for track in found.tracks}
        told[choice] = {number: track.name for track in found.tracks for number in track.spans}
    # Both are seen all the time, and both are as large.
    assert set(told["all"].values()) == {"face0"}
    assert told["speaking"] == {0: "face0", 1: "face1", 2: "face0", 3: "face1"}
    found, *_ = cut(silent, WindowConfig(face_choice="speaking"), spans=spans)
    assert [track.name for track in found.tracks] == ["face0"]
    assert "no sound tells who speaks: a span is of the face that is seen for most of it" in (
        found.notes
    )


@pytest.mark.slow
def test_the_receipt_names_clips_whose_sound_is_another_or_has_slipped(tmp_path: Path) -> None:
    for name, heard, late in (("own", ANNA, 0.0), ("dubbed", CARL, 0.0), ("late", ANNA, 0.48)):
        write_faces(tmp_path / f"{name}.mp4", (ANNA,), heard, late=late)
    sources = sorted(tmp_path.glob("*.mp4"))
    build_shards(sources, tmp_path / "shards", config(face_choice="largest", sync=True))
    infos = {info.key: info for _, info in sample_infos(read_index(tmp_path / "shards"))}
    assert infos["late"].sync["lag_seconds"] == pytest.approx(0.48, abs=0.05)
    assert infos["own"].sync["lag_seconds"] == pytest.approx(0, abs=0.05)
    receipt = json.loads((tmp_path / "shards" / "receipt.json").read_text())["sync"]
    assert [receipt[f"num_{word}"] for word in ("ok", "apart", "shifted")] == [1, 1, 1]
    assert (list(receipt["apart"]), list(receipt["shifted"])) == (["dubbed"], ["late"])
    page = (tmp_path / "shards" / "receipt.md").read_text()
    assert "| perhaps slipped | 1 samples: `late` (evidence" in page


def test_without_sound_or_faces_nobody_is_said_to_speak(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="face_choice = speaking with faces = none, which finds"):
        config(faces="none")
    with pytest.raises(ValueError, match="sync = true with faces = none"):
        FaceConfig(faces="none", sync=True)
    assert BOXES.face_choice == "largest"
    write_faces(tmp_path / "mute.mp4", (ANNA, BEN), None)
    with pytest.raises(NothingBuiltError) as caught:
        build_shards([tmp_path / "mute.mp4"], tmp_path / "shards", config())
    (refusal,) = caught.value.result.refusals
    assert refusal.cause == "no-sound"
    assert "there is no sound to tell who speaks" in refusal.message


def test_evidence_is_a_correlation_that_grows_with_the_frames() -> None:
    rng = np.random.default_rng(0)
    heard, noise = rng.normal(size=200), rng.normal(size=(200, 2))
    for num_frames in (50, 200):
        seen = 0.6 * heard[:num_frames, None] + 0.8 * noise[:num_frames]
        found = agreement(seen, heard, 0, 25.0)
        each = [np.corrcoef(seen[:, column], heard[:num_frames])[0, 1] for column in (0, 1)]
        assert found.evidence == pytest.approx(np.arctanh(each).mean() * np.sqrt(num_frames))
        assert (found.lag_seconds, found.evidence_at_lag) == (0, found.evidence)
    # A face that comes in late is held against the sound of its own time.
    late = agreement(0.6 * heard[80:, None] + 0.8 * noise[80:], heard, 80, 25.0)
    assert late.evidence > 5
    # The sound may come up to 3 frames before the mouth and up to 4 after it.
    for lag in range(-5, 6):
        moved = agreement(np.stack([heard, heard], 1)[50 + lag : 150 + lag], heard, 50, 25.0)
        assert moved.lag_seconds == lag / 25
        assert moved.evidence_at_lag == pytest.approx(np.arctanh(0.99) * 10)
        assert (moved.evidence == moved.evidence_at_lag) == (-3 <= lag <= 4)
    assert agreement(np.zeros((3, 2)), heard, 0, 25.0) == Agreement(0, 0, 0)
    assert verdict(Agreement(0, 0, 0), 1.0) == ""
    for found, seconds, said in (
        (Agreement(0, 0, 0), 3.0, "apart"),
        (Agreement(0, 0, 0), 2.56, "apart"),
        (Agreement(0, 0, 0), 2.5, ""),
        (Agreement(2.6, 0.0, 2.6), 3.0, ""),
        (Agreement(2.4, 0.4, 4.4), 3.0, "apart"),
        (Agreement(9.0, 0.32, 9.5), 3.0, "shifted"),
        (Agreement(9.0, 0.24, 9.5), 3.0, ""),
        (Agreement(9.0, -0.24, 9.5), 3.0, "shifted"),
    ):
        assert verdict(found, seconds) == said, (found, seconds)
