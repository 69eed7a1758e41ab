"""What causes what: pictures know no voice, sound no expression, and labels need both."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from shards.synthesis.corpus import ClipPlan, clip_frames, clip_script, clip_sound, plan_clips
from shards.synthesis.settings import EMOTIONS, Causes, CorpusConfig, Expression, Voice

EXPRESSIONS, VOICES = get_args(Expression), get_args(Voice)
CONFIG = CorpusConfig(
    speakers=3, takes=1, folds=1, min_seconds=1.0, max_seconds=1.4, frame_size=96, workers=0
)
PLANS = plan_clips(CONFIG)


def _with(plan: ClipPlan, **changes: object) -> ClipPlan:
    return replace(plan, causes=replace(plan.causes, **changes))  # type: ignore[arg-type]


def test_the_six_classes_are_three_expressions_times_two_voices() -> None:
    assert set(EMOTIONS) == set(itertools.product(EXPRESSIONS, VOICES))
    assert len(set(EMOTIONS.values())) == 6


@pytest.mark.parametrize("plan", PLANS[::5], ids=lambda plan: plan.causes.emotion)
def test_the_other_voice_gives_identical_frames(plan: ClipPlan) -> None:
    frames = list(clip_frames(plan, CONFIG))
    for voice, strength in (("bright", 1.0), ("soft", 0.4)):
        other = clip_frames(_with(plan, voice=voice, voice_strength=strength), CONFIG)
        assert all(map(np.array_equal, frames, other))


@pytest.mark.parametrize("plan", PLANS[::5], ids=lambda plan: plan.causes.emotion)
def test_the_other_expression_gives_identical_sound(plan: ClipPlan) -> None:
    sound = clip_sound(plan, CONFIG)
    for expression, strength in itertools.product(EXPRESSIONS, (0.4, 1.0)):
        changed = _with(plan, expression=expression, expression_strength=strength)
        assert np.array_equal(sound, clip_sound(changed, CONFIG))


def test_expressions_and_voices_do_change_what_they_should() -> None:
    plan = PLANS[0]
    faces = [next(clip_frames(_with(plan, expression=e), CONFIG)) for e in EXPRESSIONS]
    for one, other in itertools.combinations(faces, 2):
        assert np.abs(one.astype(int) - other).mean() > 0.5
    bright, soft = (clip_sound(_with(plan, voice=v), CONFIG).astype(float) for v in VOICES)
    assert abs(np.corrcoef(bright, soft)[0, 1]) < 0.9


def test_scripts_of_every_class_are_drawn_alike() -> None:
    config = CorpusConfig(speakers=60, takes=2)
    plans = plan_clips(config)
    rows = []
    for plan in plans:
        script = clip_script(plan, config)
        times = np.arange(0, script.seconds, 0.02)
        rows.append(
            [
                script.seconds,
                len(script.syllables) / script.seconds,
                script.loudness(times).mean(),
                script.stress(times).mean(),
                script.opening(times).std(),
            ]
        )
    values = np.array(rows)
    classes = np.array([plan.class_number for plan in plans])
    means = np.stack([values[classes == number].mean(axis=0) for number in range(6)])
    error = values.std(axis=0) / np.sqrt(len(plans) / 6)
    # 30 comparisons with the grand mean: chance passes four standard errors once in 500 seeds.
    assert (np.abs(means - values.mean(axis=0)) / error).max() < 4


def test_the_mouth_opens_with_the_sound() -> None:
    config = replace(CONFIG, min_seconds=4.0, max_seconds=4.0, snr_db=(30.0, 30.0))
    for plan in plan_clips(config)[::7]:
        script = clip_script(plan, config)
        sound = clip_sound(plan, config).astype(float)
        per_frame = config.sample_rate // config.fps
        loud = np.sqrt((sound.reshape(-1, per_frame) ** 2).mean(axis=1))
        # The middle of each frame's stretch of sound.
        times = (np.arange(len(loud)) + 0.5) / config.fps
        assert np.corrcoef(loud, script.loudness(times))[0, 1] > 0.8
        frames = np.stack(list(clip_frames(plan, config))).astype(float)
        mouth = frames[:, 60:86, 30:66].mean(axis=3).reshape(len(frames), -1)
        # The mouth's main change from frame to frame, in whichever direction.
        direction = np.linalg.svd(mouth - mouth.mean(axis=0), full_matrices=False)[0][:, :3]
        opening = script.opening(np.arange(len(frames)) / config.fps)
        fit = LinearRegression().fit(direction, opening).score(direction, opening)
        assert fit > 0.5


def _fit(features: list[list[float]], targets: list[float]) -> float:
    """R² of the best linear fit."""
    return float(LinearRegression().fit(features, targets).score(features, targets))


def test_valence_and_arousal_follow_both_causes() -> None:
    causes = [plan.causes for plan in plan_clips(CorpusConfig(speakers=60))]
    seen = [
        [float(c.expression == e) * k for e in EXPRESSIONS for k in (1.0, c.expression_strength)]
        for c in causes
    ]
    heard = [
        [float(c.voice == v) * k for v in VOICES for k in (1.0, c.voice_strength)] for c in causes
    ]
    both = [one + other for one, other in zip(seen, heard, strict=True)]
    valence, arousal = [c.valence for c in causes], [c.arousal for c in causes]
    assert _fit(both, valence) == pytest.approx(1.0)
    assert _fit(both, arousal) == pytest.approx(1.0)
    assert 0.5 < _fit(seen, valence) < 0.85
    assert 0.15 < _fit(heard, valence) < 0.5
    assert 0.1 < _fit(seen, arousal) < 0.4
    assert 0.6 < _fit(heard, arousal) < 0.9
    assert _fit(both, valence) - _fit(seen, valence) > 0.15
    assert _fit(both, arousal) - _fit(heard, arousal) > 0.1


def test_valence_and_arousal_stay_within_one() -> None:
    for expression, voice in EMOTIONS:
        for seen, heard in itertools.product((0.0, 1.0), repeat=2):
            causes = Causes(
                expression=expression,
                voice=voice,
                expression_strength=seen,
                voice_strength=heard,
            )
            assert -1 <= causes.valence <= 1
            assert -1 <= causes.arousal <= 1
