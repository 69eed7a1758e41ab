"""How far each modality can get: measured on files, by classifiers that never saw the speakers.

Plain features (gradient histograms of grey frames; the course of the pitch and the spectrum's
slope) and linear classifiers: they have to come close to what is there, and must not find what
is not. Expressions and voices are drawn clear here, because the features are plain; labels are
free of noise.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shards.synthesis.corpus import synthesize
from shards.synthesis.settings import EMOTIONS, CorpusConfig

pytestmark = pytest.mark.slow

CONFIG = CorpusConfig(
    speakers=30,
    takes=1,
    folds=5,
    min_seconds=1.6,
    max_seconds=2.0,
    frame_size=96,
    fps=10,  # the sound does not care, and the files are made in half the time
    expression_strength=(0.7, 1.0),
    voice_strength=(0.7, 1.0),
)


class Guesses:
    """What the classifiers say of clips of speakers they have not seen, all (n,) of str."""

    def __init__(self, table: pd.DataFrame, pictures: np.ndarray, sounds: np.ndarray) -> None:
        self.table = table
        groups = table.speaker.to_numpy()

        def guess(features: np.ndarray, column: str) -> np.ndarray:
            model = make_pipeline(
                StandardScaler(),
                PCA(min(60, features.shape[1]), whiten=True, random_state=0),
                LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1),
            )
            return cross_val_predict(
                model, features, table[column].to_numpy(str), groups=groups, cv=GroupKFold(5)
            )

        self.seen = {c: guess(pictures, c) for c in ("expression", "voice", "emotion")}
        self.heard = {c: guess(sounds, c) for c in ("expression", "voice", "emotion")}

    def share(self, guessed: np.ndarray, column: str) -> float:
        return float((guessed == self.table[column].to_numpy(str)).mean())


@pytest.fixture(scope="module")
def guesses(tmp_path_factory: pytest.TempPathFactory) -> Guesses:
    manifest = synthesize(CONFIG, tmp_path_factory.mktemp("corpus"))
    table = pd.read_csv(manifest)
    paths = [manifest.parent / path for path in table.path]
    return Guesses(
        table,
        np.array([_picture_features(path) for path in paths]),
        np.array([_sound_features(path) for path in paths]),
    )


def _chance(num: int, share: float) -> float:
    """A share of right guesses that pure chance exceeds once in ten thousand times."""
    return float(binom.ppf(1 - 1e-4, num, share)) / num


def test_pictures_tell_the_expression(guesses: Guesses) -> None:
    assert guesses.share(guesses.seen["expression"], "expression") > 0.93


def test_pictures_do_not_tell_the_voice(guesses: Guesses) -> None:
    share = guesses.share(guesses.seen["voice"], "voice")
    assert share <= _chance(len(guesses.table), 1 / 2)


def test_sound_tells_the_voice(guesses: Guesses) -> None:
    assert guesses.share(guesses.heard["voice"], "voice") > 0.95


def test_sound_does_not_tell_the_expression(guesses: Guesses) -> None:
    share = guesses.share(guesses.heard["expression"], "expression")
    assert share <= _chance(len(guesses.table), 1 / 3)


def test_neither_alone_tells_the_class_and_both_do(guesses: Guesses) -> None:
    num = len(guesses.table)
    assert guesses.share(guesses.seen["emotion"], "emotion") <= _chance(num, 1 / 2)
    assert guesses.share(guesses.heard["emotion"], "emotion") <= _chance(num, 1 / 3)
    pairs = zip(guesses.seen["expression"], guesses.heard["voice"], strict=True)
    both = np.array([EMOTIONS[pair] for pair in pairs])
    assert guesses.share(both, "emotion") > 0.9


def _picture_features(path: Path) -> np.ndarray:
    """Mean histogram of gradients (d,) over the frames of a file."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    describe = cv2.HOGDescriptor((96, 96), (32, 32), (16, 16), (16, 16), 9)
    return np.mean([describe.compute(np.ascontiguousarray(f)) for f in frames], axis=0)


def _sound_features(path: Path) -> np.ndarray:
    """Slope and wavering of the pitch, periodicity, and the spectrum in six bands (11,)."""
    with av.open(str(path)) as container:
        parts = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    sound = np.concatenate(parts).astype(float)
    size, hop, rate = 1024, 160, CONFIG.sample_rate
    starts = np.arange(0, len(sound) - size, hop)
    frames = sound[starts[:, None] + np.arange(size)] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, 2 * size)) ** 2
    # Autocorrelation, freed of the window's own.
    own = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(size), 2 * size)) ** 2)[:size]
    similar = np.fft.irfft(power)[:, :size] / own
    similar /= similar[:, :1] + 1e-12
    low, high = rate // 400, rate // 70
    period = similar[:, low:high].argmax(axis=1) + low
    voicing = similar[np.arange(len(period)), period]
    loudness = power.sum(axis=1)
    loud = loudness > 0.09 * np.percentile(loudness, 95)
    semitones = 12 * np.log2(rate / period)
    steps = np.diff(semitones)
    firm = loud & (voicing > 0.5)
    steps = steps[firm[1:] & firm[:-1] & (np.abs(steps) < 1)]
    steps = steps if len(steps) else np.zeros(1)
    hertz = np.fft.rfftfreq(2 * size, 1 / rate)
    spectrum = np.log(power[loud].mean(axis=0) + 1e-12)
    edges = (80, 400, 900, 1800, 3000, 5000, 7500)
    bands = np.array(
        [
            spectrum[(hertz >= low) & (hertz < high)].mean()
            for low, high in itertools.pairwise(edges)
        ]
    )
    course = [steps.mean(), np.median(steps), steps.std()]
    return np.array(
        [*course, voicing[loud].mean(), np.median(voicing[loud]), *(bands - bands.mean())]
    )
