"""The synthetic corpus as files: what is written, that it is deterministic, and what is refused."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.signal import correlate

from shards.synthesis import corpus as making
from shards.synthesis.corpus import (
    clip_frames,
    clip_script,
    clip_sound,
    number_order,
    plan_clips,
    synthesize,
    told_causes,
)
from shards.synthesis.settings import EMOTIONS, CorpusConfig
from shards.synthesis.speakers import draw_speaker

SMALL = CorpusConfig(
    speakers=2,
    takes=1,
    folds=2,
    min_seconds=1.0,
    max_seconds=1.4,
    frame_size=64,
    workers=0,
)


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) and samples (n,) of a file, the first of each at time 0."""
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    with av.open(str(path)) as container:
        sounds = list(container.decode(audio=0))
    assert pictures[0].pts == 0
    assert sounds[0].pts == 0
    frames = np.stack([picture.to_ndarray(format="rgb24") for picture in pictures])
    return frames, np.concatenate([sound.to_ndarray()[0] for sound in sounds])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(SMALL, tmp_path_factory.mktemp("corpus")).parent


@pytest.mark.slow
def test_the_manifest_names_every_file_and_its_meaning(corpus: Path) -> None:
    table = pd.read_csv(corpus / "manifest.csv")
    written = {str(path.relative_to(corpus)) for path in corpus.rglob("*.mp4")}
    assert set(table.path) == written
    assert len(table) == 12
    for row in table.itertuples():
        assert row.path == f"clips/{row.speaker}/{row.speaker}_{row.emotion}_0.mp4"
        assert EMOTIONS[row.expression, row.voice] == row.emotion
    assert table.groupby("fold").speaker.unique().map(list).tolist() == [["s0000"], ["s0001"]]
    assert table.groupby(["speaker", "emotion"]).size().eq(1).all()
    assert table[["valence", "arousal"]].abs().to_numpy().max() <= 1


def test_files_hold_what_was_rendered_in_time(corpus: Path) -> None:
    for plan in plan_clips(SMALL)[::5]:
        speaker = draw_speaker(SMALL.seed, plan.speaker).name
        name = f"clips/{speaker}/{speaker}_{plan.causes.emotion}_{plan.take}.mp4"
        frames, samples = _decode(corpus / name)
        drawn = np.stack(list(clip_frames(plan, SMALL)))
        played = clip_sound(plan, SMALL) / 32768
        assert frames.shape == drawn.shape
        error = ((frames.astype(float) - drawn) ** 2).mean()
        assert 10 * np.log10(255**2 / error) > 27
        # Colours survive the way through YUV: no channel is off by more than a few levels.
        assert np.abs(frames.mean(axis=(0, 1, 2)) - drawn.mean(axis=(0, 1, 2))).max() < 3
        lags = correlate(samples, played, "full", method="fft")
        assert abs(int(lags.argmax()) - (len(played) - 1)) <= 16  # 1 ms
        assert 0 <= len(samples) - len(played) < 2048
        assert len(drawn) / SMALL.fps == pytest.approx(len(played) / SMALL.sample_rate)


@pytest.mark.slow
def test_the_same_seed_makes_the_same_bytes_whatever_the_number_of_workers(
    corpus: Path, tmp_path: Path
) -> None:
    synthesize(replace(SMALL, workers=2), tmp_path / "again")
    assert _digests(tmp_path / "again") == _digests(corpus)


def test_a_clip_does_not_depend_on_the_rest_of_its_corpus() -> None:
    other = replace(SMALL, speakers=5, first_speaker=1, takes=3, folds=1)
    alone = next(p for p in plan_clips(SMALL) if p.speaker == 1)
    among = next(p for p in plan_clips(other) if p.speaker == 1)
    assert alone == among
    assert np.array_equal(clip_sound(alone, SMALL), clip_sound(among, other))
    assert np.array_equal(list(clip_frames(alone, SMALL))[-1], list(clip_frames(among, other))[-1])


def test_another_seed_is_other_people_saying_other_things() -> None:
    other = replace(SMALL, seed=1)
    assert draw_speaker(0, 0) != draw_speaker(1, 0)
    assert clip_script(plan_clips(SMALL)[0], SMALL) != clip_script(plan_clips(other)[0], other)


def test_speakers_differ_in_looks_and_pitch() -> None:
    people = [draw_speaker(0, number) for number in range(40)]
    pitches = np.array([person.voice_box.pitch_hz for person in people])
    assert pitches.min() < 120
    assert pitches.max() > 240
    assert len({person.looks.hair_style for person in people}) >= 6
    assert {person.looks.glasses for person in people} == {"none", "round", "square"}
    assert np.std([person.looks.skin for person in people], axis=0).min() > 0.1


@pytest.mark.slow
def test_an_unlabelled_corpus_tells_nothing(tmp_path: Path) -> None:
    config = replace(SMALL, labelled=False, speakers=1, first_speaker=7, folds=4)
    table = pd.read_csv(synthesize(config, tmp_path / "out"))
    assert list(table.columns) == ["path", "speaker", "pitch_hz"]
    assert table.path.tolist() == [f"clips/s0007/s0007_{number:03d}.mp4" for number in range(6)]
    # Each number holds the clip that was dealt to it, and the deal is not the classes' order.
    order = number_order(7, config)
    assert order.tolist() != sorted(order)
    for plan, number in zip(plan_clips(config), order, strict=True):
        frames, _ = _decode(tmp_path / "out" / table.path[number])
        assert len(frames) == len(list(clip_frames(plan, config)))


def test_label_noise_replaces_that_share_of_the_labels_and_nothing_else() -> None:
    clean = CorpusConfig(speakers=50, takes=2)
    noisy = replace(clean, label_noise=0.3)
    plans = plan_clips(clean)
    assert plans == plan_clips(noisy)
    assert all(told_causes(plan, clean) == plan.causes for plan in plans)
    wrong = [told_causes(plan, noisy).emotion != plan.causes.emotion for plan in plans]
    assert np.mean(wrong) == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / len(plans)))
    untouched = [plan for plan, bad in zip(plans, wrong, strict=True) if not bad]
    assert all(told_causes(plan, noisy) == plan.causes for plan in untouched)


def test_a_finished_corpus_is_left_alone_and_another_is_refused(corpus: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert synthesize(replace(SMALL, workers=1), corpus) == corpus / "manifest.csv"
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before
    with pytest.raises(ValueError, match="holds another corpus"):
        synthesize(replace(SMALL, takes=2), corpus)


@pytest.mark.slow
def test_clips_that_were_deleted_are_rendered_again_and_no_other(tmp_path: Path) -> None:
    synthesize(SMALL, tmp_path)
    before = _digests(tmp_path)
    first, second, *_ = sorted(tmp_path.rglob("*.mp4"))
    first.unlink()
    second.write_bytes(b"mine")
    synthesize(SMALL, tmp_path)
    after = _digests(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {
        str(second.relative_to(tmp_path))
    }


def test_a_folder_with_a_foreign_manifest_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path\n")
    with pytest.raises(ValueError, match="something else"):
        synthesize(SMALL, tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        synthesize(SMALL, tmp_path / "manifest.csv")


def test_an_interrupted_corpus_has_no_manifest_and_no_half_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Exception):
        pass

    convert, calls = making.cv2.cvtColor, 0

    def fail_later(*args: object) -> object:
        nonlocal calls
        calls += args[1] == cv2.COLOR_RGB2YUV_I420
        if calls > 40:
            raise Interrupted
        return convert(*args)

    monkeypatch.setattr(making.cv2, "cvtColor", fail_later)
    with pytest.raises(Interrupted):
        synthesize(SMALL, tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out" / "manifest.csv").exists()
    assert not list((tmp_path / "out").rglob("*.part"))
    for path in (tmp_path / "out").rglob("*.mp4"):
        _decode(path)


def test_every_problem_of_the_settings_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"^corpus: ") as caught:
        CorpusConfig(
            speakers=0,
            min_seconds=4.0,
            max_seconds=3.0,
            frame_size=63,
            expression_strength=(0.5, 1.5),
            label_noise=2.0,
            camera_noise=1e9,
        )
    wrong = ("speakers", "max_seconds", "frame_size", "expression_strength", "label_noise")
    for name in (*wrong, "camera_noise = 1000000000.0 (must be 255 or less)"):
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_which_no_clip_can_be_made_are_named_at_once() -> None:
    given = {"min_seconds": math.nan, "max_seconds": math.inf, "camera_noise": math.nan}
    given |= {"sample_rate": 20000, "snr_db": (12.0, math.inf)}
    with pytest.raises(ValueError, match=r"^corpus: ") as caught:
        CorpusConfig(**given)  # type: ignore[arg-type]
    for name in given:
        assert f"{name} = " in str(caught.value)


@pytest.mark.slow
def test_faces_are_found_by_the_detector(yunet_file: Path) -> None:
    config = replace(SMALL, speakers=6, frame_size=160)
    detector = cv2.FaceDetectorYN.create(str(yunet_file), "", (160, 160), 0.6)
    found = [
        detector.detect(np.ascontiguousarray(next(clip_frames(plan, config))[..., ::-1]))[1]
        for plan in plan_clips(config)
    ]
    assert np.mean([faces is not None for faces in found]) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_of_a_killed_command_stays(tmp_path: Path, number: signal.Signals) -> None:
    words = ["shards", "synthesize", "--out", str(tmp_path), "--takes", "50", "--workers", "2"]
    command = subprocess.Popen([sys.executable, "-m", "hicmae", *words], start_new_session=True)
    try:
        while not list(tmp_path.glob("clips/*/*.mp4")):
            assert command.poll() is None
            time.sleep(0.1)
        command.send_signal(number)
        assert command.wait() == (-number if number == signal.SIGKILL else 128 + number)
        with suppress(ProcessLookupError):  # the group has no process any more
            for _ in range(600):
                os.killpg(command.pid, 0)
                time.sleep(0.1)
            pytest.fail("a process stays")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
    made = [path for path in tmp_path.rglob("clips/*/*") if path.is_file()]
    assert len(made) < 16  # no more was begun
    assert number == signal.SIGKILL or {path.suffix for path in made} == {".mp4"}
