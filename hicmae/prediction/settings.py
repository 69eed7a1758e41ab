"""How recordings are cut into windows and what is looked at in them.

For: everything of this package. Not for: how faces become images, which the checkpoint says
(``hicmae/media/preparation.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hicmae.media.preparation import Preparation
from hicmae.settings import InputConfig

Detector = Literal["profile", "yunet", "cascade", "boxes", "none"]
Choice = Literal["all", "largest", "central", "profile"]


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Where the windows are, and whose.

    Args:
        window: Seconds that one prediction is about; none given: one clip of the network. A longer
            window is covered by the fewest clips that leave no gap, evenly spread, and what the
            network says to each is averaged.
        hop: Seconds from the start of one window to the next. A last window ends where the face
            (or the sound) does, so that nothing at the end is left out.
        faces: Detector; ``profile``: the one of the checkpoint's preparation. The others are for
            recordings of another kind than those of the training.
        face_choice: Which of several faces: ``all`` (a timeline for each), the ``largest``, the
            most ``central``, or what the checkpoint's preparation says (``profile``).
        boxes: With ``faces: boxes``: the CSV of face boxes; none given: NAME.csv beside it.
        image_fps: Frame rate of folders of images that have none of their own.
        min_seconds: Faces seen for less are left out, and counted.
        offline: Never fetch the detector's file; nor is it where HICMAE_OFFLINE is set.
        deadline_seconds: A recording whose decoding shows no sign of life for so long is given up.
    """

    window: float | None = None
    hop: float = 1.0
    faces: Detector = "profile"
    face_choice: Choice = "all"
    boxes: Path | None = None
    image_fps: float | None = None
    min_seconds: float = 0.5
    offline: bool = False
    deadline_seconds: float = 120.0

    def __post_init__(self) -> None:
        problems = [
            f"{name} = {value} (must be positive)"
            for name in ("window", "hop", "image_fps", "deadline_seconds")
            if (value := getattr(self, name)) is not None and not value > 0
        ]
        if not self.min_seconds >= 0:
            problems.append(f"min_seconds = {self.min_seconds} (must be 0 or more)")
        if self.boxes is not None and self.faces != "boxes":
            problems.append(f"boxes is given with faces = {self.faces} (it needs faces: boxes)")
        if problems:
            raise ValueError(f"predict: {'; '.join(problems)}")

    def prepared(self, preparation: Preparation) -> Preparation:
        """The preparation of the checkpoint with what is asked for otherwise.

        Raises: ValueError: a detector that finds no eyes where the images are turned by them.
        """
        if self.faces != "profile" and self.faces != preparation.faces:
            if preparation.align == "eyes" and self.faces in ("cascade", "none"):
                raise ValueError(
                    f"faces = {self.faces}: the network was trained on images turned by the eyes, "
                    "which this finds none of (give yunet, or boxes with eyes)"
                )
            preparation = replace(preparation, faces=self.faces, box=None)
        if self.image_fps is not None:
            preparation = replace(preparation, image_fps=self.image_fps)
        if self.face_choice != "profile":
            preparation = replace(preparation, face_choice=self.face_choice)
        return preparation

    def layout(self, input: InputConfig) -> WindowLayout:
        """The same in frames of a network's input.

        Raises: ValueError: windows shorter than a clip.
        """
        clip_frames = input.num_frames * input.frame_stride
        frames = clip_frames if self.window is None else round(self.window * input.fps)
        if frames < clip_frames:
            raise ValueError(
                f"predict: window = {self.window:g} s (the network's clip is "
                f"{input.clip_seconds:g} s: give that or more, and a shorter hop for more values)"
            )
        return WindowLayout(
            window_frames=frames,
            hop_frames=self.hop * input.fps,
            num_clips=math.ceil(frames / clip_frames),
            input=input,
        )


@dataclass(frozen=True, kw_only=True)
class WindowLayout:
    """Windows in frames at the network's constant rate.

    Args:
        window_frames: Of a window.
        hop_frames: From one start to the next; starts are rounded to whole frames.
        num_clips: Clips that cover a window.
        input: The network's.
    """

    window_frames: int
    hop_frames: float
    num_clips: int
    input: InputConfig

    def starts(self, num_frames: int) -> list[int]:
        """First frames of the windows of so many frames; the last window ends with them.

        A stretch shorter than a window has one, whose last frame is held as in training.
        """
        last = max(0, num_frames - self.window_frames)
        count = math.floor(last / self.hop_frames + 1e-9) + 1
        starts = sorted({round(number * self.hop_frames) for number in range(count)})
        starts = [start for start in starts if start <= last]
        return starts if starts[-1] == last else [*starts, last]
