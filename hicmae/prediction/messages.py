"""What the decoding process is told of a recording's windows, and what it answers.

Light on purpose: the verbs take their settings from here, and both ends of the pipe import it. How
faces become images, the checkpoint says (``hicmae/media/faces.py``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hicmae.settings import InputConfig, outside, raise_all

if TYPE_CHECKING:
    from hicmae.media.faces import FaceConfig

# More than a thousand values a second are the same value again and again.
SHORTEST_HOP = 0.001

Choice = Literal["all", "largest", "central", "speaking", "profile"]


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Where the windows are, and whose. The fields are options of ``hicmae predict``.

    A window longer than a clip is covered by the fewest clips that leave no gap, evenly spread. A
    last window ends where the face (or the sound) does, so that nothing at the end is left out.
    ``faces`` other than ``profile`` is for recordings of another kind than those of the training.

    Args:
        window: Seconds that one value is about; none given: one clip of the network. A longer one
            is covered by several clips, which are averaged.
        hop: Seconds from one value to the next.
        faces: Detector (yunet, cascade, boxes, none); profile: the one with which the checkpoint's
            training data was made, with its settings; another has its defaults. none takes the
            middle of the picture, for face crops.
        detector: Settings of the detector, in place of those, such as longest_side of yunet for
            small faces in a large picture (see hicmae shards build).
        face_choice: A timeline for all faces, for the largest, the most central, the one whose
            mouth goes with the sound, window by window (speaking), or for the one that the
            checkpoint's training data would have (profile).
        identity: With face_choice all: sface gives the faces of one person in different scenes one
            timeline, by OpenCV's SFace (fetched once, 39 MB). Faces are compared within one
            recording; nothing of it is stored, nobody is named.
        boxes: CSV of face boxes, with --faces boxes; none given: NAME.csv beside the recording.
        image_fps: Frame rate of folders and .npy stacks of images that have none of their own.
        stack_colours: Which colour is first in .npy stacks of images: bgr (OpenCV) or rgb.
        min_seconds: Faces seen for less are left out.
        offline: Never fetch the face detector's file.
        deadline_seconds: A recording whose decoding shows no sign of life for so long is given up.
    """

    window: float | None = None
    hop: float = 1.0
    faces: str = "profile"
    detector: dict[str, Any] = field(default_factory=dict, hash=False)
    face_choice: Choice = "all"
    identity: str = "none"
    boxes: Path | None = None
    image_fps: float | None = None
    stack_colours: Literal["bgr", "rgb"] | None = None
    min_seconds: float = 0.5
    offline: bool = False
    deadline_seconds: float = 120.0

    def __post_init__(self) -> None:
        from hicmae.media.faces import detector_names

        bounds = {"positive and finite": "window image_fps", "positive": "deadline_seconds"}
        problems = outside(self, bounds | {"0 or more": "min_seconds"})
        if not SHORTEST_HOP <= self.hop < math.inf:
            problems.append(f"hop = {self.hop:g} (must be {SHORTEST_HOP:g} s or more, and finite)")
        if self.faces not in (known := ["profile", *detector_names()]):
            problems.append(f"faces = {self.faces} (must be one of {', '.join(known)})")
        if self.boxes is not None and self.faces != "boxes":
            problems.append(f"boxes is given with faces = {self.faces} (it needs faces: boxes)")
        raise_all("predict", problems)

    def prepared(self, preparation: FaceConfig) -> FaceConfig:
        """The preparation of the checkpoint with what is asked for otherwise.

        Raises: ValueError: a detector that finds no eyes where the images are turned by them, or
            one without these settings.
        """
        from hicmae.media.faces import finds_eyes

        if self.faces != "profile" and self.faces != preparation.faces:
            if preparation.align == "eyes" and not finds_eyes(self.faces):
                raise ValueError(
                    f"faces = {self.faces}: the network was trained on images turned by the eyes, "
                    "which this finds none of (give yunet, or boxes with eyes)"
                )
            preparation = replace(preparation, faces=self.faces, detector={}, box=None)
        if self.detector:
            preparation = replace(preparation, detector=preparation.detector | self.detector)
        if self.image_fps is not None:
            preparation = replace(preparation, image_fps=self.image_fps)
        if self.stack_colours is not None:
            preparation = replace(preparation, stack_colours=self.stack_colours)
        if self.face_choice != "profile":
            preparation = replace(preparation, face_choice=self.face_choice)
        return replace(preparation, identity=self.identity)

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
        hop_frames: From one start to the next; starts are rounded to whole frames.
        num_clips: Clips that cover a window.
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


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """How far one pass over the recording is.

    Args:
        stage: ``faces`` (looking for them), ``sound`` (how long it is), ``windows`` (cutting them
            out) or ``annotate`` (drawing the copy).
        done: Seconds of the recording behind it.
        total: Seconds of the recording; infinite where nobody knows yet.
    """

    stage: str
    done: float
    total: float


@dataclass(frozen=True, kw_only=True)
class Followed:
    """One face that is followed, or the sound alone.

    Args:
        name: ``face0``, ``face1``, … in the order in which they appear; ``sound`` without faces.
        start_seconds, end_seconds: After the recording's beginning, as players count.
        num_windows: Windows there will be.
        boxes: (T, 4) float32 x0, y0, x1, y1 of the square that is cut out, pixels of the upright
            picture, one a frame at ``fps``; none for sound.
        angles: (T,) float32 radians by which the square is turned, clockwise; None: not at all.
        found_by: (T,) words, see ``hicmae.media.tracking.FaceTrack``; none for sound.
        coverage: Share of the frames handed to the detector in which it found this face.
        spans: Numbers of the spans that the windows are of, where spans were asked for.
    """

    name: str
    start_seconds: float
    end_seconds: float
    num_windows: int
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))
    angles: np.ndarray | None = None
    found_by: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype="<U1"))
    coverage: float = 1.0
    fps: float = 25.0
    spans: tuple[int, ...] = ()

    @property
    def is_face(self) -> bool:
        """Whether it is seen, not only heard."""
        return len(self.boxes) > 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a recording holds, said before its first window.

    Args:
        tracks: The faces, or the sound alone; after faces, sound that has no picture.
        seconds: Length of the recording, from its beginning to the end of its picture (or sound).
        width, height: Of the upright picture, pixels; 0 without one.
        start_seconds: Where the picture (or the sound) begins on the container's own clock.
        has_sound: Whether sound goes into the windows.
        notes: What the user should know about this recording, a line each.
        missed: Of each span without a window its number, and why it has none.
    """

    tracks: tuple[Followed, ...]
    seconds: float
    width: int
    height: int
    start_seconds: float
    has_sound: bool
    notes: tuple[str, ...] = ()
    missed: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What the network is shown at once, before ``hicmae.transforms.ClipTransform``.

    Args:
        frames: (T, H, W, 3) uint8 RGB; None without a face.
        waveform: (n,) int16 at the network's rate, zeros after the sound; None without sound.
        num_samples: Valid samples of the waveform.
    """

    frames: np.ndarray | None
    waveform: np.ndarray | None
    num_samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Window:
    """The stretch of time that one prediction is about, or a clip of it: of a span, each clip
    comes alone, so that none is too long.

    Args:
        track: Name of the face, or ``sound``.
        number: Of the window in its track, from 0; that of a span several times.
        start_seconds: After the recording's beginning, as players count.
        end_seconds: Likewise; a short track ends before its window would.
        thumbnail: JPEG of the face in its middle; empty without one.
    """

    track: str
    number: int
    start_seconds: float
    end_seconds: float
    clips: tuple[Clip, ...]
    thumbnail: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The end of a recording.

    Args:
        seconds: Processor time by stage: ``decoding``, ``faces``, ``images``, ``sound``.
        notes: What only the end could tell.
        peak_memory_bytes: Of the decoding process, so far.
    """

    seconds: dict[str, float]
    notes: tuple[str, ...] = ()
    peak_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A recording that cannot be predicted: ``cause`` and line of a ``PredictionError``."""

    cause: str
    message: str
