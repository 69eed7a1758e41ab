"""A corpus: which clips there are, what each is made from, and the files.

Where expressions rise and fall, two annotators follow them. Anna is 0.48 s late and notes what is
shown; Ben is 1.2 s late, and notes half of it, and higher. So a network trained on both is right
for neither, and the lag of each can be found.

Every clip has its own random streams, made from (seed, speaker, class, take): one for the causes'
strengths, one for the script, one for the pictures, one for the sound. Nothing else is shared, so
clips do not depend on the order or the number of workers.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator, SeedSequence, default_rng
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hicmae.files import whole_file, write_text
from hicmae.processes import check_workers, end_with_starter, forking, num_cores
from shards.synthesis.face import render_frames
from shards.synthesis.settings import EMOTIONS, Causes, CorpusConfig
from shards.synthesis.speakers import Script, draw_script, draw_speaker
from shards.synthesis.voice import render_sound

# What a clip's settings turn into; raised whenever a clip of the same settings changes.
_GENERATOR = 1


def synthesize(config: CorpusConfig, out: Path) -> Path:
    """Write a corpus: ``clips/<speaker>/*.mp4``, ``manifest.csv`` and ``corpus.json``.

    The manifest is written last, so a folder that has one is complete. A folder that already
    holds this very corpus is left as it is, but for clips that were deleted since.

    Args: out: Folder, made if absent.
    Returns: the manifest's path. Its columns: path, speaker, pitch_hz, and if labelled: emotion,
        expression, voice, expression_strength, voice_strength, valence, arousal, fold.
    Raises: ValueError: the folder holds another corpus.
    """
    check_workers(config.workers or 0)
    out = Path(out)
    manifest, facts = out / "manifest.csv", out / "corpus.json"
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is no folder; name a new one for the corpus")
    described = _describe(config)
    if facts.exists() and facts.read_text(encoding="utf-8") != described:
        raise ValueError(
            f"{out}: holds another corpus (see {facts.name}); choose a new folder, or delete it"
        )
    was_whole = manifest.exists()
    if was_whole and not facts.exists():
        raise ValueError(f"{out}: holds a manifest of something else; choose a new folder")
    plans = plan_clips(config)
    rows = _manifest_rows(config, plans)
    paths = [out / str(row["path"]) for row in rows]
    clips = list(zip(plans, paths, strict=True))
    if was_whole:
        clips = [(plan, path) for plan, path in clips if not path.is_file()]
        if not clips:
            return manifest
    for folder in sorted({path.parent for path in paths}):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(facts, described)
    _make_all(config, [plan for plan, _ in clips], [path for _, path in clips])
    if was_whole:
        return manifest
    if config.over_time:
        _write_annotations(config, plans, rows, out)
    if not config.labelled:  # the order of the rows must not tell either
        rows.sort(key=lambda row: str(row["path"]))
    write_text(manifest, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    return manifest


def _describe(config: CorpusConfig) -> str:
    """What the corpus is, as JSON; the number of workers is no part of it."""
    settings = {name: value for name, value in asdict(config).items() if name != "workers"}
    if not config.over_time:  # corpora that were made before it stay what they are
        del settings["over_time"]
    return json.dumps({"generator": _GENERATOR, **settings}, indent=2) + "\n"


def _make_all(config: CorpusConfig, plans: list[ClipPlan], paths: list[Path]) -> None:
    workers = num_cores() if config.workers is None else config.workers
    columns = (
        TextColumn("synthesize"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("clips"),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("synthesize", total=len(plans))
        if workers == 0:
            for plan, path in zip(plans, paths, strict=True):
                _make_clip(plan, path, config)
                progress.advance(task)
            return
        # Not forked from here: the caller may hold threads (torch, OpenCV) that a fork would break.
        with ProcessPoolExecutor(workers, forking([__name__]), _begin_worker) as pool:
            for _ in pool.map(_make_clip, plans, paths, [config] * len(plans)):
                progress.advance(task)


def _begin_worker() -> None:
    """In a process of the pool: end with the command, even killed; the others have the cores."""
    end_with_starter(lambda: os._exit(1))
    cv2.setNumThreads(1)


def _write_annotations(
    config: CorpusConfig, plans: list[ClipPlan], rows: list[dict[str, object]], out: Path
) -> None:
    """A CSV of both annotators for each clip, and the table for ``shards manifest traces``."""
    listed = []
    for plan, row in zip(plans, rows, strict=True):
        name = f"annotations/{Path(str(row['path'])).stem}.csv"
        noted = noted_by_all(plan.causes, _course(plan, config), clip_script(plan, config).seconds)
        (out / name).parent.mkdir(exist_ok=True)
        write_text(out / name, noted.to_csv(index=False, lineterminator="\n"))
        listed.append({**{key: row[key] for key in ("path", "speaker", "fold")}, "trace": name})
    table = pd.DataFrame(listed).to_csv(index=False, lineterminator="\n")
    write_text(out / "recordings.csv", table)


def _manifest_rows(config: CorpusConfig, plans: list[ClipPlan]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    names = _file_names(config, plans)
    for plan, name in zip(plans, names, strict=True):
        speaker = draw_speaker(config.seed, plan.speaker)
        row: dict[str, object] = {
            "path": f"clips/{speaker.name}/{name}.mp4",
            "speaker": speaker.name,
            "pitch_hz": round(speaker.voice_box.pitch_hz, 1),
        }
        if config.labelled:
            told = told_causes(plan, config)
            row |= {
                "emotion": told.emotion,
                "expression": plan.causes.expression,
                "voice": plan.causes.voice,
                "expression_strength": round(plan.causes.expression_strength, 6),
                "voice_strength": round(plan.causes.voice_strength, 6),
                "valence": round(told.valence, 6),
                "arousal": round(told.arousal, 6),
                "fold": (plan.speaker - config.first_speaker) % config.folds,
            }
        rows.append(row)
    return rows


def _file_names(config: CorpusConfig, plans: list[ClipPlan]) -> list[str]:
    """One name a clip; without labels it tells the speaker and a number, dealt at random."""
    if config.labelled:
        return [
            f"{draw_speaker(config.seed, p.speaker).name}_{p.causes.emotion}_{p.take}"
            for p in plans
        ]
    names = []
    for number in range(config.first_speaker, config.first_speaker + config.speakers):
        speaker = draw_speaker(config.seed, number).name
        names += [f"{speaker}_{position:03d}" for position in number_order(number, config)]
    return names


# Purposes of a clip's random streams; 1 is the speakers'.
_CAUSES, _SCRIPT, _PICTURES, _SOUND, _LABELS, _COURSE = 2, 3, 4, 5, 6, 7


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """One clip before it is made; with the corpus' settings it determines every byte."""

    speaker: int
    class_number: int  # position in ``EMOTIONS``
    take: int
    causes: Causes


def plan_clips(config: CorpusConfig) -> list[ClipPlan]:
    """All clips of a corpus: speakers, then takes, then classes."""
    return [
        ClipPlan(
            speaker=speaker,
            class_number=number,
            take=take,
            causes=_causes(config, number, _stream(config, speaker, number, take, _CAUSES)),
        )
        for speaker in range(config.first_speaker, config.first_speaker + config.speakers)
        for take in range(config.takes)
        for number in range(len(EMOTIONS))
    ]


def clip_script(plan: ClipPlan, config: CorpusConfig) -> Script:
    """What is said in a clip, a whole number of frames long."""
    rng = _plan_stream(config, plan, _SCRIPT)
    seconds = rng.uniform(config.min_seconds, config.max_seconds)
    return draw_script(rng, round(seconds * config.fps) / config.fps)


def clip_frames(plan: ClipPlan, config: CorpusConfig) -> Iterator[np.ndarray]:
    """A clip's pictures, (S, S, 3) uint8 RGB; the voice takes no part in them."""
    script = clip_script(plan, config)
    return render_frames(
        draw_speaker(config.seed, plan.speaker).looks,
        script,
        plan.causes.expression,
        _strength(plan, config, script),
        _plan_stream(config, plan, _PICTURES),
        num_frames=round(script.seconds * config.fps),
        fps=config.fps,
        frame_size=config.frame_size,
        camera_noise=config.camera_noise,
        scene_variety=config.scene_variety,
    )


def _strength(plan: ClipPlan, config: CorpusConfig, script: Script) -> float | np.ndarray:
    """Strength of the expression, or of each frame where it rises and falls."""
    if not config.over_time:
        return plan.causes.expression_strength
    return _course(plan, config)(np.arange(round(script.seconds * config.fps)) / config.fps)


def _course(plan: ClipPlan, config: CorpusConfig) -> Callable[[np.ndarray], np.ndarray]:
    rng = _plan_stream(config, plan, _COURSE)
    return strength_course(rng, plan.causes.expression_strength)


def clip_sound(plan: ClipPlan, config: CorpusConfig) -> np.ndarray:
    """A clip's sound, (n,) int16; the expression takes no part in it."""
    return render_sound(
        draw_speaker(config.seed, plan.speaker).voice_box,
        clip_script(plan, config),
        plan.causes.voice,
        plan.causes.voice_strength,
        _plan_stream(config, plan, _SOUND),
        sample_rate=config.sample_rate,
        snr_db=config.snr_db,
    )


def told_causes(plan: ClipPlan, config: CorpusConfig) -> Causes:
    """The causes that the labels tell: the true ones, or others for ``label_noise``."""
    rng = _plan_stream(config, plan, _LABELS)
    if rng.random() >= config.label_noise:
        return plan.causes
    other = (plan.class_number + int(rng.integers(1, len(EMOTIONS)))) % len(EMOTIONS)
    return _causes(config, other, rng)


def number_order(speaker: int, config: CorpusConfig) -> np.ndarray:
    """Numbers of a speaker's clips (n,) where names must not tell the class: shuffled."""
    rng = default_rng(SeedSequence([config.seed, speaker, _LABELS]))
    return rng.permutation(config.takes * len(EMOTIONS))


def _causes(config: CorpusConfig, number: int, rng: Generator) -> Causes:
    expression, voice = list(EMOTIONS)[number]
    return Causes(
        expression=expression,
        voice=voice,
        expression_strength=float(rng.uniform(*config.expression_strength)),
        voice_strength=float(rng.uniform(*config.voice_strength)),
    )


def _plan_stream(config: CorpusConfig, plan: ClipPlan, purpose: int) -> Generator:
    return _stream(config, plan.speaker, plan.class_number, plan.take, purpose)


def _stream(
    config: CorpusConfig, speaker: int, class_number: int, take: int, purpose: int
) -> Generator:
    return default_rng(SeedSequence([config.seed, speaker, class_number, take, purpose]))


# Constant quality of H.264 (0 lossless .. 51): faces stay sharp at about 3 KB a frame.
_QUALITY = "20"
_SOUND_BITS_PER_SECOND = 64_000
_SOUND_BLOCK = 1024


def _make_clip(plan: ClipPlan, path: Path, config: CorpusConfig) -> None:
    # Bit-exact muxing leaves out the date and the library's version.
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with (
        whole_file(path) as part,
        av.open(str(part), "w", format="mp4", options=options) as container,
    ):
        _encode(container, clip_frames(plan, config), clip_sound(plan, config), config)


def _encode(
    container: av.container.OutputContainer,
    frames: Iterable[np.ndarray],
    samples: np.ndarray,
    config: CorpusConfig,
) -> None:
    fps, sample_rate = config.fps, config.sample_rate
    sound = container.add_stream("aac", rate=sample_rate, layout="mono")
    sound.bit_rate = _SOUND_BITS_PER_SECOND
    sound.codec_context.thread_count = 1
    video = None
    for number, frame in enumerate(frames):
        if video is None:
            # One thread: with several the bytes would depend on their number. No B-frames: every
            # decoder then agrees on when the first frame is shown.
            video = container.add_stream(
                "libx264",
                rate=fps,
                options={"preset": "superfast", "crf": _QUALITY, "bf": "0", "threads": "1"},
            )
            video.height, video.width = frame.shape[:2]
            video.pix_fmt = "yuv420p"
            video.codec_context.thread_count = 1
        planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
        picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        picture.pts, picture.time_base = number, Fraction(1, fps)
        container.mux(video.encode(picture))
    assert video is not None, "a clip has at least one frame"
    container.mux(video.encode(None))
    for start in range(0, len(samples), _SOUND_BLOCK):
        block = np.ascontiguousarray(samples[None, start : start + _SOUND_BLOCK])
        packet = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
        packet.sample_rate = sample_rate
        packet.pts, packet.time_base = start, Fraction(1, sample_rate)
        container.mux(sound.encode(packet))
    container.mux(sound.encode(None))


STEP_SECONDS = 0.1  # from one note to the next


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """Somebody who notes ``scale`` · truth + ``offset``, ``lag_seconds`` after it is shown."""

    lag_seconds: float
    scale: float
    offset: float


ANNOTATORS = {
    "anna": Annotator(lag_seconds=0.48, scale=1.0, offset=0.0),
    "ben": Annotator(lag_seconds=1.2, scale=0.5, offset=0.3),
}


def strength_course(rng: Generator, most: float) -> Callable[[np.ndarray], np.ndarray]:
    """How strong an expression is over time: three slow waves, from 0 to ``most``.

    Returns: a function of times (T,), seconds, to strengths (T,).
    """
    rates, phases = rng.uniform(0.08, 0.5, 3), rng.uniform(0, 1, 3)

    def course(times: np.ndarray) -> np.ndarray:
        waves = np.sin(2 * np.pi * (np.outer(times, rates) + phases)).sum(axis=1)
        return most * (0.5 + 0.5 * np.tanh(1.2 * waves))

    return course


def noted_by_all(
    causes: Causes, course: Callable[[np.ndarray], np.ndarray], seconds: float
) -> pd.DataFrame:
    """What both note of a recording: time, and valence and arousal of each; none before the lag.

    Args:
        causes: Of the recording; its strength of expression is that of the course.
        course: Times (T,) to strengths (T,).
        seconds: Length of the recording.
    """
    times = np.arange(0, seconds, STEP_SECONDS)
    table = pd.DataFrame({"time": times.round(6)})
    for name, who in ANNOTATORS.items():
        strengths = course(times - who.lag_seconds).tolist()
        felt = [dataclasses.replace(causes, expression_strength=value) for value in strengths]
        for value in ("valence", "arousal"):
            noted = who.scale * np.array([getattr(each, value) for each in felt]) + who.offset
            noted[times < who.lag_seconds] = np.nan
            table[f"{value}.{name}"] = noted.round(6)
    return table
