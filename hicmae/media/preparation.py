"""How faces were made into images for a network: what prediction must do again.

For: the part of a build's settings that decides what an image and its sound look like. It travels
in every fine-tuned checkpoint with the rest of them. Not for: building shards, whose settings
(``shards``) have more to say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hicmae.media.faces import FaceConfig
from hicmae.plain import from_dict
from hicmae.settings import InputConfig


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """From a recording to face images. The fields are those of ``hicmae shards build``.

    Args:
        face_size: Side of the square face images, pixels.
        fps: Constant frame rate, frames per second.
        jpeg_quality: Of the face images, 1..100.
        chroma: Colour resolution of the images: ``420`` or ``444``.
        faces: Detector: ``yunet``, ``cascade``, ``boxes`` or ``none``.
        face_choice: Which of several faces: ``largest``, ``central`` or ``all``.
        face_margin: How much of the face box's side is added around it.
        face_smoothing_seconds: Standard deviation of the smoothing of the box over time.
        face_gap_seconds: How long a moving face may stay unfound and still be the same one.
        align: ``eyes`` levels the eyes; ``none`` keeps pictures upright.
        detect_every: Frames from one detection to the next.
        image_fps: Frame rate of folders of images that have none of their own.
        min_coverage: Least share of the frames shown to the detector in which it finds the face.
        box: With ``faces: none``: x0, y0, x1, y1 cut out of every frame, pixels.
        silence_db: Sound below this level counts as silent, decibels relative to full scale.
    """

    face_size: int = 160
    fps: float = 25.0
    jpeg_quality: int = 90
    chroma: Literal["420", "444"] = "420"
    faces: Literal["yunet", "cascade", "boxes", "none"] = "yunet"
    face_choice: Literal["largest", "central", "all"] = "largest"
    face_margin: float = 0.3
    face_smoothing_seconds: float = 0.2
    face_gap_seconds: float = 1.0
    align: Literal["none", "eyes"] = "none"
    detect_every: int = 5
    image_fps: float | None = None
    min_coverage: float = 0.1
    box: tuple[int, int, int, int] | None = None
    silence_db: float = -70.0

    @classmethod
    def of_build(cls, build: Mapping[str, Any], *, where: str) -> Preparation:
        """Read it out of the settings of a build; what else they say is left aside.

        Raises: ValueError: a value that cannot be one.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        return from_dict(cls, {name: build[name] for name in names & set(build)}, where=where)

    @classmethod
    def default(cls, input: InputConfig) -> Preparation:
        """That of ``hicmae shards build``, at the size and rate of a network's input."""
        return cls(face_size=input.image_size, fps=input.fps)

    def face_config(self, *, offline: bool = False) -> FaceConfig:
        """How the faces are found, followed and cut out.

        Args:
            offline: Never fetch the detector's file.
        """
        return FaceConfig(
            detector=self.faces,
            # Every face is followed on its own: the policy is not asked.
            policy="largest" if self.face_choice == "all" else self.face_choice,
            margin=self.face_margin,
            detect_every=self.detect_every,
            max_gap_seconds=self.face_gap_seconds,
            smoothing_seconds=self.face_smoothing_seconds,
            align=self.align,
            offline=offline,
        )
