"""Clips spoiled on purpose, before the transform, the same in every batch and worker.

Every draw is seeded with the sample's key, the clip's place, the condition and the seed: numbers
do not depend on batch size, workers, folds or order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hicmae.settings import outside, raise_all

UNSPOILED = "unspoiled"
# Condition -> the modality that it takes or spoils.
SPOILS = {
    UNSPOILED: "",
    "audio-only": "video",
    "video-only": "audio",
    "video-frozen": "video",
    "sound-swapped": "audio",
    "picture-swapped": "video",
    "sound-noise": "audio",
    "picture-noise": "video",
    "missing-frames": "video",
}


@dataclass(frozen=True, kw_only=True)
class PerturbationConfig:
    """How clips are spoiled.

    Args:
        swaps: Permutations in which each sample has another one's sound (and that one its
            picture); mean and deviation are over them. 0: none.
        snr_db: White noise in the sound, decibels of the clip's power over the noise's.
        picture_sd: Gaussian noise in the picture, standard deviation in steps of 255.
        missing_shares: Shares of a clip's frames that are missing; the last one before a gap is
            shown on.
        seed: Of all draws.
    """

    swaps: int = 5
    snr_db: tuple[float, ...] = (20.0, 10.0, 0.0, -10.0)
    picture_sd: tuple[float, ...] = (10.0, 25.0, 50.0, 100.0)
    missing_shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    seed: int = 0

    def __post_init__(self) -> None:
        problems = outside(self, {"0 or more": "swaps seed"})
        problems += [
            f"picture_sd = {value} (must be positive)" for value in self.picture_sd if value <= 0
        ]
        problems += [
            f"missing_shares = {value} (must lie in (0, 1))"
            for value in self.missing_shares
            if not 0 < value < 1
        ]
        for name in ("snr_db", "picture_sd", "missing_shares"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                problems.append(f"{name} = {list(values)} (each once)")
        raise_all("perturb", problems)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One way to spoil clips.

    Args:
        kind: Name in ``SPOILS``.
        level: Decibels, steps or share; none where there is no more or less.
        repeat: Number of the permutation.
    """

    kind: str
    level: float | None = None
    repeat: int = 0

    @property
    def name(self) -> str:
        """As it stands in tables."""
        unit = {
            "sound-noise": "{:g} dB SNR",
            "picture-noise": "sd {:g} of 255",
            "missing-frames": "{:g}%",
        }
        words = self.kind.replace("-", " ")
        if self.level is None:
            return words
        level = round(100 * self.level, 6) if self.kind == "missing-frames" else self.level
        return f"{words}, {unit[self.kind].format(level)}"


def conditions_of(
    modalities: str, config: PerturbationConfig, *, num_frames: int
) -> list[Condition]:
    """What is asked of a network; ``sound-swapped`` gives ``picture-swapped`` along with it.

    A network of one modality has nothing to be without and nothing to be swapped against. Shares of
    a clip's ``num_frames`` that are no frame are left out.
    """
    both = modalities == "audio-video"
    found = [Condition(kind=UNSPOILED)]
    if both:
        found += [Condition(kind="audio-only"), Condition(kind="video-only")]
    if modalities != "audio":
        found.append(Condition(kind="video-frozen"))
    if both:
        found += [Condition(kind="sound-swapped", repeat=r) for r in range(config.swaps)]
    if modalities != "video":
        found += [Condition(kind="sound-noise", level=level) for level in config.snr_db]
    if modalities != "audio":
        found += [Condition(kind="picture-noise", level=level) for level in config.picture_sd]
        found += [
            Condition(kind="missing-frames", level=share)
            for share in config.missing_shares
            if num_missing(num_frames, share)
        ]
    return found


def partners(keys: Sequence[str], *, repeat: int, seed: int) -> list[int]:
    """Whose sound each sample gets: one random cycle through all, so nobody's own.

    Args:
        keys: Of N samples of one test side, two or more.

    Returns: (N,) positions; each occurs once. The draw does not depend on the order of the keys.
    Raises: ValueError: a single sample, which has nobody to swap with.
    """
    if len(keys) < 2:
        raise ValueError(
            f"sample '{keys[0]}' is alone on its test side, so there is no other one's sound;"
            " pass --perturb.swaps 0"
        )
    order = sorted(range(len(keys)), key=lambda place: keys[place])
    shuffled = np.random.default_rng([seed, repeat]).permutation(len(keys))
    cycle = [order[place] for place in shuffled]
    found = [0] * len(keys)
    for place, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
        found[place] = after
    return found


def perturb(clip: dict[str, Any], condition: Condition, *, seed: int) -> dict[str, Any]:
    """Spoil one clip.

    Args:
        clip: ``frames`` (T, H, W, 3) uint8, ``waveform`` (n,) int16 with ``num_samples``, ``key``
            and ``view``.

    Returns: a clip that shares no memory with it; a noisy waveform is float32 in [-1, 1], and
        beyond where noise is loud.
    """
    import torch  # here, as the options of verbs are above

    level = condition.level
    # Draws that only the sample, the place of the clip in it and the condition decide.
    text = f"{clip['key']}\n{clip['view']}\n{condition.kind}\n{condition.level}"
    digest = hashlib.sha256(text.encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
    if condition.kind == "video-frozen":
        frames = clip["frames"]
        return clip | {"frames": frames[len(frames) // 2].expand_as(frames).clone()}
    if condition.kind == "picture-noise":
        frames = clip["frames"].numpy()
        noise = rng.standard_normal(frames.shape, dtype=np.float32) * np.float32(level)
        noisy = np.rint(frames + noise).clip(0, 255).astype(np.uint8)
        return clip | {"frames": torch.from_numpy(noisy)}
    if condition.kind == "missing-frames":
        assert level is not None
        return clip | {"frames": clip["frames"][held_frames(len(clip["frames"]), level, rng)]}
    if condition.kind == "sound-noise":
        assert level is not None
        waveform = clip["waveform"].numpy().astype(np.float32) / 32768
        sound = waveform[: clip["num_samples"]]  # what follows is padding
        power = float(np.mean(np.square(sound, dtype=np.float64))) if len(sound) else 0.0
        loudness = np.float32(np.sqrt(power / 10 ** (level / 10)))
        sound += loudness * rng.standard_normal(len(sound), dtype=np.float32)
        return clip | {"waveform": torch.from_numpy(waveform)}
    return clip


def num_missing(num_frames: int, share: float) -> int:
    """How many frames of a clip are missing: all but one at most, and none of a small share."""
    return min(round(share * num_frames), num_frames - 1)


def held_frames(num_frames: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Which frame is shown at each place of a clip when a share of them is missing.

    A missing frame is replaced by the last one before it that is there, at the beginning by the
    first one after it; at least one is there.

    Returns: (T,) int64.
    """
    count = num_missing(num_frames, share)
    there = np.ones(num_frames, dtype=bool)
    there[rng.choice(num_frames, size=count, replace=False)] = False
    shown = np.where(there, np.arange(num_frames), -1)
    shown = np.maximum.accumulate(shown)
    return np.where(shown < 0, int(np.argmax(there)), shown)
