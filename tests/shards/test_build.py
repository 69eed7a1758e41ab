"""Recordings become aligned samples, the same ones whoever builds them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hicmae.media.faces import DETECTORS, Face
from hicmae.media.sound import Sound
from shards.building import prepare
from shards.building.build import build_shards
from shards.check import check_shards
from shards.index import read_index
from shards.schema import sample_json
from shards.settings import BuildConfig
from tests.support.build_fixtures import config, digests, run_here, samples
from tests.support.media_files import write_sound
from tests.support.shard_fixtures import wav_bytes
from tests.support.shard_media import brightness, tone, write_video

TINY = config()


@pytest.mark.slow
def test_a_recording_becomes_frames_and_sound_of_the_same_span(tmp_path: Path) -> None:
    path = write_video(tmp_path / "in/a clip.mp4", seconds=1.2, sound=tone(1.2))
    result = build_shards([tmp_path / "in"], tmp_path / "out", TINY)
    assert (result.num_samples, result.refusals, result.ignored) == (1, [], [])
    info, frames, sound = samples(tmp_path / "out")["a_clip"]
    assert frames.shape == (30, 32, 32, 3)
    assert (info.num_frames, info.fps, info.face_size) == (30, 25, 32)
    assert (info.start_seconds, info.end_seconds) == (0.0, 1.2)
    assert (info.sound, info.num_samples) == ("present", 19200)
    assert info.source.path == "a clip.mp4"
    assert info.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.faces.found_by == (("centre", 30),)
    # Frame i shows the brightness of the time i / fps, and the sound is the tone.
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), brightness(np.arange(30) / 25), atol=3)
    assert sound is not None
    spectrum = np.abs(np.fft.rfft(sound.astype(float)))
    assert np.argmax(spectrum) / 1.2 == pytest.approx(440, abs=1)
    assert check_shards(tmp_path / "out") == []


def test_other_frame_rates_and_dropped_frames_are_filled_by_time(tmp_path: Path) -> None:
    write_video(tmp_path / "in/fast.mp4", seconds=1.0, fps=50)
    write_video(tmp_path / "in/slow.mp4", seconds=1.0, fps=10)
    write_video(tmp_path / "in/varying.mp4", seconds=1.0, dropped=(7, 8, 9, 10, 20))
    build_shards([tmp_path / "in"], tmp_path / "out", TINY)
    for key, step in (("fast", 0.02), ("slow", 0.1), ("varying", 0.2)):
        info, frames, _ = samples(tmp_path / "out")[key]
        assert info.num_frames == 25, key
        error = frames.mean(axis=(1, 2, 3)) - brightness(np.arange(25) / 25)
        # Never further off than half the distance of the frames there are.
        assert np.abs(error).max() <= 50 * step / 2 + 3, key
    varying = samples(tmp_path / "out")["varying"][1].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(varying[11:20], brightness(np.arange(11, 20) / 25), atol=3)


@pytest.mark.slow
def test_every_state_of_the_sound_is_said(tmp_path: Path) -> None:
    for name, sound in (
        ("absent", None),
        ("present", tone(1.0)),
        ("silent", np.zeros(16000, dtype=np.int16)),
        ("shorter", tone(0.6)),
    ):
        write_video(tmp_path / f"in/{name}.mp4", sound=sound)
    build_shards([tmp_path / "in"], tmp_path / "out", TINY)
    found = samples(tmp_path / "out")
    assert {key: info.sound for key, (info, _, _) in found.items()} == {
        name: name for name in ("absent", "present", "silent", "shorter")
    }
    assert found["absent"][2] is None
    shorter, _, sound = found["shorter"]
    assert sound is not None
    assert len(sound) == shorter.num_samples == 16000
    # The encoder may add a packet of silence; the rest up to the picture's end is padding.
    assert 16000 * 0.4 - 1600 <= shorter.padded_samples <= 16000 * 0.4
    assert not sound[-shorter.padded_samples :].any()
    assert np.abs(sound[4000:8000]).max() > 5000
    states = read_index(tmp_path / "out").table.set_index("key")["sound_state"]
    assert states["silent"] == "silent"


@pytest.mark.parametrize(
    ("missing", "amplitude", "state"),
    [
        (0, 33, "present"),  # -59.9 dB
        (1600, 3000, "present"),
        (1601, 3000, "shorter"),
        (8000, 33, "shorter"),
        (8000, 32, "silent"),  # -60.2 dB, whatever is padded
        (16000, 3000, "absent"),
    ],
)
def test_a_span_says_what_is_missing_of_its_sound_and_how_loud_the_rest_is(
    missing: int, amplitude: int, state: str
) -> None:
    heard = np.full(16000 - missing, amplitude, dtype=np.int16)
    sound = Sound(
        samples=heard, sample_rate=16000, start_seconds=5.0, damaged=True, taken="channel 1 of 2"
    )
    samples, told = prepare._span_sound(sound, 5.0, 1.0, -60.0)
    assert (told["sound"], told["sound_damaged"]) == (state, True)
    if state == "absent":
        assert (samples, told["num_samples"], told["padded_samples"]) == (None, 0, 0)
        return
    assert samples is not None
    assert samples.tolist() == [*heard.tolist(), *[0] * missing]
    assert (told["num_samples"], told["padded_samples"]) == (16000, missing)
    assert told["sound_taken"] == "channel 1 of 2"
    level = None if state == "silent" else round(20 * np.log10(amplitude / 32768), 3)
    assert told.get("loudness_db") == level


def test_sound_that_a_mix_would_lose_is_said_in_sample_and_receipt(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4")
    wave_ = np.sin(np.arange(16000) * 0.2) * 0.3
    write_sound(tmp_path / "opposed.wav", np.stack([wave_, -wave_], axis=1), 16000)
    write_sound(tmp_path / "plain.wav", np.stack([wave_, wave_], axis=1), 16000)
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,audio,key\nclip.mp4,opposed.wav,opposed\nclip.mp4,plain.wav,plain\n")
    build_shards([manifest], tmp_path / "out", TINY)
    found = samples(tmp_path / "out")
    taken = "channel 1 of 2, as the mix loses it"
    assert [found[key][0].sound_taken for key in ("opposed", "plain")] == [taken, ""]
    levels = [found[key][0].loudness_db for key in ("opposed", "plain")]
    assert levels[0] == pytest.approx(levels[1], abs=0.01)
    assert b"sound_taken" in sample_json(found["opposed"][0])
    assert b"sound_taken" not in sample_json(found["plain"][0])
    receipt = json.loads((tmp_path / "out/receipt.json").read_text())
    assert receipt["sound"]["taken"] == {taken: 1}
    assert f"| {taken} | 1 samples |" in (tmp_path / "out/receipt.md").read_text()
    assert check_shards(tmp_path / "out") == []


def test_recordings_without_sound_are_refused_where_it_is_required(tmp_path: Path) -> None:
    write_video(tmp_path / "in/mute.mp4")
    write_video(tmp_path / "in/loud.mp4", sound=tone(1.0))
    result = build_shards([tmp_path / "in"], tmp_path / "out", config(sound="required"))
    assert list(samples(tmp_path / "out")) == ["loud"]
    assert [(item.cause, Path(item.path).name) for item in result.refusals] == [
        ("no-sound", "mute.mp4")
    ]


def test_a_manifest_brings_labels_spans_splits_and_sound_of_its_own(tmp_path: Path) -> None:
    write_video(tmp_path / "v/a.mp4", seconds=3.0)
    steps = np.repeat(np.arange(1, 4) * 1000, 16000)  # 1000 per second
    (tmp_path / "v/a.wav").write_bytes(wav_bytes(steps))
    (tmp_path / "list.csv").write_text(
        "path,audio,speaker,start,end,split,emotion,fold\n"
        "v/a.mp4,v/a.wav,s1,1,2,train,joy,1\n"
        "v/a.mp4,,s1,2,9,test,anger,2\n"
    )
    build_shards([tmp_path / "list.csv"], tmp_path / "out", TINY)
    found = samples(tmp_path / "out")
    info, frames, sound = found["v/a_0001000_0002000"]
    assert (info.num_frames, info.start_seconds, info.end_seconds) == (25, 1.0, 2.0)
    np.testing.assert_allclose(
        frames.mean(axis=(1, 2, 3)), brightness(1 + np.arange(25) / 25), atol=3
    )
    assert sound is not None
    assert np.abs(sound - 2000).max() <= 1  # the second second of the file, sample for sample
    assert info.sound_source is not None
    assert info.sound_source.path == "v/a.wav"
    assert (info.speaker, info.labels, info.split) == ("s1", {"emotion": "joy", "fold": 1}, "train")
    # A span that says more than there is ends with the recording.
    assert found["v/a_0002000_0009000"][0].num_frames == 25
    table = read_index(tmp_path / "out").table
    assert table["emotion"].tolist() == ["joy", "anger"]
    assert table["fold"].tolist() == [1, 2]
    assert sorted(table["shard"]) == ["test-000000.tar", "train-000000.tar"]


def test_long_recordings_are_cut_into_equal_segments_where_asked(tmp_path: Path) -> None:
    write_video(tmp_path / "in/long.mp4", seconds=3.6, sound=tone(3.6))
    build_shards([tmp_path / "in"], tmp_path / "out", config(max_seconds=1.5))
    found = samples(tmp_path / "out")
    assert list(found) == ["long-000", "long-001", "long-002"]
    assert [info.num_frames for info, _, _ in found.values()] == [30, 30, 30]
    assert [info.start_seconds for info, _, _ in found.values()] == [0.0, 1.2, 2.4]
    joined = np.concatenate([frames for _, frames, _ in found.values()])
    np.testing.assert_allclose(joined.mean(axis=(1, 2, 3)), brightness(np.arange(90) / 25), atol=3)


def test_a_fixed_box_is_cut_out_of_every_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "in/big.mp4", size=(64, 96))
    write_video(tmp_path / "in/small.mp4", size=(48, 48))
    result = build_shards([tmp_path / "in"], tmp_path / "out", config(box=(32, 0, 96, 64)))
    assert list(samples(tmp_path / "out")) == ["big"]
    (refusal,) = result.refusals
    assert refusal.cause == "frame-size"
    assert "48x48 pixels, too small for the box [32, 0, 96, 64]" in refusal.message


@pytest.mark.slow
def test_shards_do_not_depend_on_workers_or_on_where_the_folder_is(tmp_path: Path) -> None:
    for number in range(5):
        write_video(
            tmp_path / f"one/{number}.mp4", seconds=0.6 + 0.4 * (number % 2), sound=tone(0.6)
        )
    (tmp_path / "one/bad.mp4").touch()
    (tmp_path / "two").mkdir()
    (tmp_path / "one").rename(tmp_path / "two/elsewhere")
    for name, workers in (("a", 1), ("b", 3)):
        build_shards(
            [tmp_path / "two/elsewhere"],
            tmp_path / name,
            config(workers=workers, samples_per_shard=2),
        )
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(list((tmp_path / "a").glob("*.tar"))) == 3
    shards_only = {k: v for k, v in digests(tmp_path / "a").items() if k != "refused.jsonl"}
    (tmp_path / "two/elsewhere").rename(tmp_path / "three")
    build_shards([tmp_path / "three"], tmp_path / "c", config(samples_per_shard=2))
    found = digests(tmp_path / "c")
    assert {name: found[name] for name in shards_only} == shards_only


def test_files_of_one_name_in_two_sources_are_both_kept(tmp_path: Path) -> None:
    for source in ("x", "y"):
        write_video(tmp_path / source / "clip.mp4")
    build_shards([tmp_path / "x", tmp_path / "y"], tmp_path / "out", TINY)
    assert list(samples(tmp_path / "out")) == ["x/clip", "y/clip"]


@pytest.mark.slow
def test_real_recordings_become_faces_and_refusals(
    tmp_path: Path, clips_dir: Path, yunet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HICMAE_YUNET", str(yunet_file))
    names = [
        "talking/lrs3_OzA6jRYjVQs_00004.mp4",
        "talking/1001_DFA_SAD_XX.flv",
        "awkward/sideways movie.mov",
        "awkward/marlin_cropped04.mp4",
        "awkward/liveportrait_d1.mp4",
        "awkward/video_90.mov",
        "awkward/broken.mp4",
        "awkward/lfs_pointer_d0.mp4",
        "awkward/result_zero_bytes.webm",
        "awkward/eamm_00015_is_wav.mov",
        "awkward/bad_video_sample.mp4",
    ]
    config = BuildConfig(picture="required")
    result = build_shards([clips_dir / name for name in names], tmp_path / "out", config)
    found = samples(tmp_path / "out")
    assert {key: info.sound for key, (info, _, _) in found.items()} == {
        "lrs3_OzA6jRYjVQs_00004": "present",
        "1001_DFA_SAD_XX": "present",
        "sideways_movie": "present",
        "marlin_cropped04": "absent",
        "liveportrait_d1": "silent",
    }
    assert {Path(item.path).name: item.cause for item in result.refusals} == {
        "video_90.mov": "too-short",
        "broken.mp4": "unreadable",
        "lfs_pointer_d0.mp4": "lfs-pointer",
        "result_zero_bytes.webm": "empty-file",
        "eamm_00015_is_wav.mov": "no-video",
        "bad_video_sample.mp4": "no-face",
    }
    for key, (info, frames, _) in found.items():
        assert frames.shape == (info.num_frames, 160, 160, 3), key
        assert info.faces.coverage > 0.9, key
    assert check_shards(tmp_path / "out") == []


@pytest.mark.slow
def test_every_talking_clip_becomes_a_sample_and_nothing_is_lost_silently(
    tmp_path: Path, clips_dir: Path, yunet_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HICMAE_YUNET", str(yunet_file))
    sources = [clips_dir / "talking", clips_dir / "awkward"]
    # Few and small pictures: what is found in each recording is the same.
    small = BuildConfig(fps=5.0, face_size=64, picture="required")
    result = build_shards(sources, tmp_path / "out", small)
    files = {path for source in sources for path in source.iterdir()}
    refused = {Path(item.path) for item in result.refusals}
    assert not {path for path in refused if path.parent.name == "talking"}
    assert result.num_samples + len(refused) + len(result.ignored) == len(files)
    assert check_shards(tmp_path / "out") == []


@dataclass(frozen=True, kw_only=True)
class Side:
    side: int = 12


class BottomRight:
    """A detector of nobody's package: the face is always in one corner."""

    name = "bottom-right"

    def __init__(self, settings: Side, *, offline: bool = False) -> None:
        self.side = settings.side

    def detect(self, frame: np.ndarray) -> list[Face]:
        box = np.array([54 - self.side, 44 - self.side, 54, 44], dtype=np.float32)
        return [Face(box=box, score=1.0)]


@pytest.mark.parametrize("installed", [True, False])
def test_a_detector_of_another_package_is_one_registered_name(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register() -> None:
        DETECTORS.register("bottom-right", settings=Side)(BottomRight)

    if installed:  # as a plug-in that is imported where its name is first asked for
        monkeypatch.setattr("hicmae.media.faces.load_plugins", register)
    else:
        register()
    monkeypatch.setattr("shards.building.build.run_in_order", run_here)
    write_video(tmp_path / "in/a.mp4", seconds=0.6)
    try:
        settings = config(faces="bottom-right", detector={"side": 24}, face_margin=0.0)
        build_shards([tmp_path / "in"], tmp_path / "out", settings)
    finally:
        DETECTORS.unregister("bottom-right")
    (info, frames, _) = samples(tmp_path / "out")["a"]
    assert (info.faces.detector, info.faces.coverage) == ("bottom-right", 1.0)
    assert info.faces.face_pixels == 24
    assert frames.shape == (15, 32, 32, 3)
