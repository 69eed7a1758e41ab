"""Face detectors by name, and the settings of cropping faces.

For: opening a detector. A detector is one file beside this one and one line in ``DETECTORS``. Not
for: following a face over time (``tracking.py``) or cutting it out (``crops.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hicmae.media.cascade import CascadeDetector
from hicmae.media.detection import Face, FaceDetector
from hicmae.media.yunet import YunetDetector

__all__ = ["DETECTORS", "Face", "FaceConfig", "FaceDetector", "open_detector"]


@dataclass(frozen=True, kw_only=True)
class FaceConfig:
    """How the face of a recording is found, followed and cut out.

    Args:
        detector: ``yunet`` (needs a file), ``cascade`` (bundled, finds fewer), ``boxes`` (a list
            of boxes, see ``hicmae/media/boxes.py``) or ``none``: the middle square of the picture,
            for recordings that are face crops already.
        yunet_file: YuNet's network; none given: see ``hicmae.media.yunet.get_yunet``.
        offline: Never fetch it.
        min_score: YuNet's score of a face, 0 to 1.
        policy: Of several faces: ``largest`` (seen longest and largest) or ``central`` (nearest
            to the middle of the picture for longest).
        detect_every: Frames from one detection to the next; in between the box is interpolated.
        max_gap_seconds: How long a face may stay unfound and still be the same one where it moved.
        align: ``eyes`` turns and scales the square so that the eyes are level, in their place and
            at their distance (a detector that tells eyes is needed: ``yunet``, or ``boxes`` with
            eyes); ``none`` keeps it upright about the box.
        margin: Space added around the detector's box, as a share of its longer side.
        smoothing_seconds: Standard deviation of the smoothing of the box over time; 0: none.
    """

    detector: Literal["yunet", "cascade", "boxes", "none"] = "yunet"
    yunet_file: Path | None = None
    offline: bool = False
    min_score: float = 0.6
    policy: Literal["largest", "central"] = "largest"
    detect_every: int = 5
    max_gap_seconds: float = 1.0
    align: Literal["none", "eyes"] = "none"
    margin: float = 0.3
    smoothing_seconds: float = 0.2

    def __post_init__(self) -> None:
        problems = []
        if self.detector not in DETECTORS:
            problems.append(f"detector = {self.detector!r} (one of {', '.join(DETECTORS)})")
        if self.policy not in ("largest", "central"):
            problems.append(f"policy = {self.policy!r} (one of largest, central)")
        if self.align not in ("none", "eyes"):
            problems.append(f"align = {self.align!r} (one of none, eyes)")
        elif self.align == "eyes" and self.detector in ("cascade", "none"):
            problems.append(f"align = eyes with detector = {self.detector}, which finds no eyes")
        if self.detect_every < 1:
            problems.append(f"detect_every = {self.detect_every} (must be 1 or more)")
        if not 0 <= self.min_score <= 1:
            problems.append(f"min_score = {self.min_score} (must lie within 0..1)")
        problems += [
            f"{name} = {getattr(self, name)} (must be 0 or more)"
            for name in ("max_gap_seconds", "margin", "smoothing_seconds")
            if getattr(self, name) < 0
        ]
        if problems:
            raise ValueError(f"faces: {'; '.join(problems)}")


# Name -> opener; None instead of a detector means that nothing is detected in pictures.
DETECTORS: dict[str, Callable[[FaceConfig], FaceDetector | None]] = {
    "yunet": lambda config: YunetDetector(
        config.yunet_file, min_score=config.min_score, offline=config.offline
    ),
    "cascade": lambda config: CascadeDetector(),
    "boxes": lambda config: None,
    "none": lambda config: None,
}


def open_detector(policy: str | FaceConfig) -> FaceDetector | None:
    """Open a detector by its name in ``DETECTORS``, or the one of a configuration.

    Returns: the detector, or None for ``boxes`` and ``none``.

    Raises:
        FileNotFoundError: The detector's file is missing.
        ValueError: An unknown name, or a detector's file that is not what it should be.
    """
    if isinstance(policy, str):
        if policy not in DETECTORS:
            raise ValueError(f"face detector {policy!r}: choose among {', '.join(DETECTORS)}")
        policy = FaceConfig(detector=policy)  # type: ignore[arg-type]  # checked just above
    return DETECTORS[policy.detector](policy)
