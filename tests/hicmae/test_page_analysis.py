"""What the page says of a recording is what the network says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hicmae.config import to_dict
from hicmae.heads import HeadLabels
from hicmae.page.analysis import WholeBank, _progress_to, _shown_notes, bank_url, open_analyst
from hicmae.page.server import Model, Prediction
from hicmae.page.settings import Limits
from hicmae.prediction.messages import Clip, StageProgress, WindowConfig
from hicmae.prediction.model import load
from hicmae.prediction.process import DecodingProcess
from hicmae.prediction.windows import find_detector
from hicmae.pretraining import HiCMAE
from hicmae.settings import ModelConfig
from shards.settings import BuildConfig
from tests.support.media_files import counting_frames, write_recording, write_sound
from tests.support.page_fixtures import CLASSES
from tests.support.prediction_fixtures import real_values, talk, write_checkpoint

LIMITS = ("max_megabytes", "max_seconds")
WINDOWS = WindowConfig(faces="none", hop=0.5)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds with sound."""
    times = np.arange(50) / 25
    return write_recording(tmp_path / "clip.mp4", counting_frames(50), times, sound=talk(2))


@pytest.fixture(scope="module")
def analyst_of(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model_config: ModelConfig,
    decoding: DecodingProcess,
) -> Iterator[Callable[[str], Any]]:
    """An analyst of each kind of network, opened once; all decode in the worker's process."""
    opened: dict[str, Any] = {}

    def of(kind: str) -> Any:
        if kind not in opened:
            folder = tmp_path_factory.mktemp(kind) / "network"
            names = CLASSES if kind in ("classes", "blends") else ["arousal", "valence"]
            labels = (
                {} if kind in ("classes", "blends") else {"labels": real_values(*names, std=1e-6)}
            )
            if kind == "blends":
                head = HeadLabels(
                    name="emotions",
                    kind="distribution",
                    names=tuple(CLASSES),
                    thresholds=(0.1, 0.2),
                )
                named = [f"emotions.{name}" for name in CLASSES]
                scale = {"mean": [0.0] * 3, "std": [1.0] * 3}
                joint = {"task": "joint", "names": named, "heads": to_dict([head])}
                labels = {"labels": joint | scale}
            if kind == "pretrained":
                HiCMAE(tiny_model_config).save_pretrained(folder)
            else:
                write_checkpoint(folder, tiny_model_config, names=names, **labels)
            opened[kind] = open_analyst(
                str(folder), WINDOWS, Limits(seconds=3), device="cpu", precision="32-true"
            )
        return opened[kind]

    with pytest.MonkeyPatch.context() as patch:
        for room in ("page.analysis", "prediction.model"):
            patch.setattr(f"hicmae.{room}.DecodingProcess", lambda: decoding)
        yield of


def analysed(analyst: Any, path: Path) -> tuple[Prediction, list[str]]:
    """What the page is sent about a recording, and the stages that were told."""
    stages: list[str] = []
    Model.model_validate(analyst.describe() | dict.fromkeys(LIMITS, 1) | {"live": ""})
    result = analyst.analyse(path, lambda stage, share: stages.append(stage))
    return Prediction.model_validate(result), stages


@pytest.mark.slow
def test_what_several_heads_say_comes_in_words_by_everything_and_by_each(
    clip: Path, analyst_of: Callable[[str], Any]
) -> None:
    analyst = analyst_of("blends")
    result, _ = analysed(analyst, clip)
    (track,) = result.tracks
    for outputs in (track.summary, *track.windows):
        assert set(outputs.said) == {"both", "video", "audio"}
        shares = dict(zip(CLASSES, outputs.both or [], strict=True))
        words = outputs.said["both"]
        assert words.startswith("emotions: ")
        first, *second = sorted(shares, key=lambda name: -shares[name])
        if shares[second[0]] < 0.1:
            assert words == f"emotions: {first}"
        else:
            equal = shares[first] - shares[second[0]] <= 0.2
            parts = (50, 50) if equal else (70, 30)
            assert words == f"emotions: {first} {parts[0]} + {second[0]} {parts[1]}"


@pytest.mark.slow
def test_probabilities_of_both_and_each_are_those_of_predict(
    tmp_path: Path, clip: Path, analyst_of: Callable[[str], Any]
) -> None:
    result, stages = analysed(analyst_of("classes"), clip)
    predictor = load(analyst_of("classes")._predictor.source, device="cpu", precision="32-true")
    wanted = predictor.predict(clip, config=WINDOWS, each_modality=True)
    predictor.close()
    assert (result.kind, result.task, result.labels) == ("emotion", "classification", CLASSES)
    assert (result.width, result.height, result.has_sound) == (64, 48, True)
    (track,), (expected,) = result.tracks, wanted.tracks
    assert len(track.windows) == len(expected.spans) > 2
    for number, window in enumerate(track.windows):
        assert window.both == pytest.approx(expected.values[number], abs=1e-5)
        assert window.video == pytest.approx(expected.by_modality["video"][number], abs=1e-5)
        assert window.audio == pytest.approx(expected.by_modality["audio"][number], abs=1e-5)
        assert window.both != window.video != window.audio
    assert track.summary.both == pytest.approx(expected.values.mean(axis=0), abs=1e-4)
    x, y, width, height, angle = track.boxes[0]
    assert (x, y, angle) == pytest.approx((0.5, 0.5, 0), abs=0.02)
    assert (width, height) == pytest.approx((0.75, 1), abs=0.02)  # the square middle of 64 x 48
    assert len(track.boxes) == pytest.approx(track.box_rate * (track.end - track.start), abs=1)
    assert result.filter_bank is not None
    assert result.filter_bank.end == pytest.approx(2, abs=0.08)
    assert track.thumbnail.startswith("data:image/jpeg;base64,")
    assert stages


def test_notes_name_no_folder_and_no_option(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    notes = [
        f"the predictions of 2 folds of {run} are averaged",
        f"{run / 'fold-1'} does not say how its images were made",
        "where no class reaches 0.4 the prediction is 'not sure' (--min_confidence sets another)",
        "a value of a trace (--rate) stands 1 s after the middle of its window",
    ]
    assert _shown_notes(notes, str(run), run) == [
        "the predictions of 2 folds of mine are averaged",
        "mine/fold-1 does not say how its images were made",
        "where no class reaches 0.4 the prediction is 'not sure'",
    ]


def test_who_starts_the_page_is_told_of_a_detector_that_is_not_to_be_had(
    tmp_path: Path, tiny_model_config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(config: Any, *, offline: bool) -> None:
        if config.faces == "yunet":
            raise FileNotFoundError("/home/me/yunet.onnx: not there")

    told: list[str] = []

    def opened(faces: str) -> Any:
        folder = write_checkpoint(
            tmp_path / faces, tiny_model_config, build=BuildConfig(faces=faces, face_size=32)
        )
        windows, tell = WindowConfig(), lambda *lines: told.extend(lines)
        return open_analyst(
            str(folder), windows, Limits(), device="cpu", precision="32-true", tell=tell
        )

    monkeypatch.setattr("hicmae.prediction.windows.shared_detector", absent)
    find_detector.cache_clear()
    opened("yunet").close()
    find_detector.cache_clear()
    assert "bundled cascade" in told[0]
    with pytest.raises(ValueError, match=r"faces = boxes: .* an upload does not bring"):
        opened("boxes")


@pytest.mark.slow
def test_sound_alone_says_what_it_went_by(tmp_path: Path, analyst_of: Callable[[str], Any]) -> None:
    result, _ = analysed(
        analyst_of("values"), write_sound(tmp_path / "a.wav", talk(1.5, 16000), 16000)
    )
    (track,) = result.tracks
    assert (result.task, track.is_face, track.boxes) == ("regression", False, [])
    assert track.summary.video is None
    assert track.summary.audio == track.summary.both
    assert all(track.summary.both or []), "small values are no zeros"
    assert any("sound alone" in note for note in result.notes)


@pytest.mark.slow
def test_a_pretrained_network_shows_what_it_makes_of_hidden_parts(
    tmp_path: Path, clip: Path, analyst_of: Callable[[str], Any]
) -> None:
    result, _ = analysed(analyst_of("pretrained"), clip)
    (track,) = result.tracks
    assert (result.kind, result.labels) == ("pretraining", [])
    assert 1 < len(track.reconstructions) <= 4
    for made in track.reconstructions:
        assert len(made.original) == len(made.masked) == len(made.filled) == 8
        assert len({made.original[0], made.masked[0], made.filled[0]}) == 3
        assert len(set(made.fbank)) == 3
        assert made.error > 0


@pytest.mark.slow
def test_a_pretrained_network_needs_both(tmp_path: Path, analyst_of: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match="there is no face in the recording"):
        analysed(analyst_of("pretrained"), write_sound(tmp_path / "a.wav", talk(1.5, 16000), 16000))
    with pytest.raises(ValueError, match="it has to be fine-tuned"):
        analyst_of("pretrained").live()


@pytest.mark.slow
def test_a_recording_that_is_too_long_is_refused_before_it_is_predicted(
    tmp_path: Path, analyst_of: Callable[[str], Any]
) -> None:
    times = np.arange(100) / 25
    long = write_recording(tmp_path / "long.mp4", counting_frames(100), times, sound=talk(4))
    with pytest.raises(ValueError, match=r"is 4 s long .this page takes up to 3 s"):
        analysed(analyst_of("classes"), long)


def test_a_sound_file_is_not_said_to_be_as_long_as_what_was_heard_of_it() -> None:
    tell = _progress_to(lambda *_: None, 600)
    tell(StageProgress(stage="sound", done=590, total=math.inf))
    tell(StageProgress(stage="sound", done=0, total=600.162))  # "10:00", as its player says
    with pytest.raises(ValueError, match=r"is longer than 600 s .this page takes up to 600 s"):
        tell(StageProgress(stage="sound", done=683, total=math.inf))


@pytest.mark.slow
def test_a_damaged_recording_has_its_cause(
    tmp_path: Path, analyst_of: Callable[[str], Any]
) -> None:
    path = tmp_path / "no-recording"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="no-recording") as raised:
        analysed(analyst_of("classes"), path)
    assert getattr(raised.value, "cause", "") == "unreadable"


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{clip}'\n",
    ],
)
def test_a_list_that_names_another_file_opens_nothing(
    tmp_path: Path, clip: Path, analyst_of: Callable[[str], Any], text: str
) -> None:
    path = tmp_path / "upload"
    path.write_text(text.format(clip=clip))
    with pytest.raises(ValueError, match=r"not a (readable )?recording"):
        analysed(analyst_of("classes"), path)


def test_the_whole_filter_bank_has_every_row_once_and_gaps_where_nothing_was_heard() -> None:
    bank = WholeBank(16000)
    for start in (0.0, 0.5, 0.5, 3.0):  # overlapping; the same of another face; after a gap
        clip = Clip(frames=None, waveform=np.zeros(16400, np.int16), num_samples=16400)
        rows = round(100 * start) + np.arange(128)  # each row is its own time; 101 are of sound
        if bank.wants(start, clip):
            bank.add(start, clip, np.repeat(rows[:, None], 4, axis=1).astype(np.float32))
    whole = np.concatenate(bank._rows)[:, 0]
    assert len(whole) == 401
    assert whole[:151] == pytest.approx(np.arange(151))
    assert np.isnan(whole[151:300]).all()
    assert whole[300:] == pytest.approx(np.arange(300, 401))
    picture = bank.picture()
    assert picture is not None
    assert (picture["start"], picture["end"]) == (0.0, pytest.approx(4.01))


def test_without_sound_there_is_no_picture_of_it() -> None:
    bank = WholeBank(16000)
    assert not bank.wants(0.0, Clip(frames=None, waveform=None))
    assert bank.picture() is None


def test_a_long_filter_bank_is_not_wider_than_screens() -> None:
    short = bank_url(np.random.default_rng(0).normal(size=(60_000, 8)), low=-1, high=1)
    assert len(short) < 6000 * 8 * 3 * 1.4
