"""Which clips a corpus has, what each is made from, and its pictures and sound.

For: everything that the corpus' settings determine before a file is written. Not for: files
(``corpus.py``), or how a face looks or a voice sounds.

Every clip has its own random streams, made from (seed, speaker, class, take): one for the causes'
strengths, one for the script, one for the pictures, one for the sound. Nothing else is shared, so
clips do not depend on the order or the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng

from shards.synthesis.classes import EMOTIONS, Causes
from shards.synthesis.face import render_frames
from shards.synthesis.script import Script, draw_script
from shards.synthesis.settings import CorpusConfig
from shards.synthesis.speakers import draw_speaker
from shards.synthesis.voice import render_sound

# Purposes of a clip's random streams; 1 is the speakers'.
_CAUSES, _SCRIPT, _PICTURES, _SOUND, _LABELS = 2, 3, 4, 5, 6


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """One clip before it is made; with the corpus' settings it determines every byte.

    Args:
        speaker: Number of the speaker.
        class_number: Position in ``EMOTIONS``.
        take: Number of the take.
        causes: What it shows and sounds like.
    """

    speaker: int
    class_number: int
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
        plan.causes.expression_strength,
        _plan_stream(config, plan, _PICTURES),
        num_frames=round(script.seconds * config.fps),
        fps=config.fps,
        frame_size=config.frame_size,
        camera_noise=config.camera_noise,
    )


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
