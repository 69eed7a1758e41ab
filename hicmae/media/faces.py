"""Faces: the settings of finding, following and cutting them out, and the table of detectors.

A detector is one file beside this one that registers itself in ``DETECTORS`` and is imported in
``__init__.py``; packages of others register theirs the same way (``hicmae/registry.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from hicmae.config import did_you_mean, from_dict
from hicmae.registry import Registry, load_plugins
from hicmae.settings import InputConfig, outside


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face in one frame.

    Args:
        box: (4,) float32 x0, y0, x1, y1, pixels of the frame; may reach outside of it.
        score: The detector's confidence; comparable within one detector only.
        eyes: (2, 2) float32 x, y of the eye on the picture's left and of the one on its right, or
            None where the detector does not tell.
        track: Whose face it is, where a list of boxes says so; detectors do not know.
        landmarks: (5, 2) float32 x, y of eyes, tip of the nose and corners of the mouth, each time
            the one on the picture's left first; None where the detector does not tell.
    """

    box: np.ndarray
    score: float
    eyes: np.ndarray | None = None
    track: str | None = None
    landmarks: np.ndarray | None = None


class FaceDetector(Protocol):
    """Made with its settings and ``offline``, whether a file that it lacks must not be fetched.

    Where a class says ``finds_eyes = False``, its faces have none.
    """

    name: str

    def detect(self, frame: np.ndarray) -> list[Face]:
        """Find faces in (H, W, 3) uint8 RGB, in no particular order."""
        ...


class FaceEmbedder(Protocol):
    """Says what a face looks like; ``same``: the cosine from which two faces are one person's."""

    name: str
    same: float

    def embed(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """A vector (D,) of length 1 for a face in (H, W, 3) uint8 RGB."""
        ...


EMBEDDERS: Registry[Callable[..., FaceEmbedder]] = Registry("face embedder")
DETECTORS: Registry[Callable[..., FaceDetector]] = Registry("face detector")
# Where nothing detects: faces are boxes that are known, or pictures are faces already.
_BOXES, _NONE = "boxes", "none"


def detector_names() -> list[str]:
    """What ``faces`` may be."""
    return [*DETECTORS.names, _BOXES, _NONE]


def finds_eyes(faces: str) -> bool:
    """Whether the faces of a detector, or of a list of boxes, may have eyes."""
    if faces in DETECTORS:
        return bool(getattr(DETECTORS[faces].make, "finds_eyes", True))
    return faces == _BOXES


def no_face_remedy(faces: str) -> str:
    """What to do where a detector finds no face, for messages."""
    small = "; for faces that are small in a large picture, --detector.longest_side 960"
    return f"if these are face crops already, pass --faces none{small * (faces == 'yunet')}"


@dataclass(frozen=True, kw_only=True)
class FaceConfig:
    """From a recording to face images: what a build records and prediction does again.

    The fields are options of ``hicmae shards build``; they travel in every index and, with the
    rest of a build's settings, in every fine-tuned checkpoint. ``boxes.py``, ``speaking.py``,
    ``identity.py`` and ``images.py`` tell more of them. The margin is a share of the box's longer
    side; ``largest`` and ``central`` are meant over the time that a face is seen.

    Args:
        face_size: Side of the square face images, pixels.
        fps: Constant frame rate of the samples, frames per second.
        jpeg_quality: Of the face images, 1..100.
        chroma: Colour resolution of the images: ``420`` half in both directions, ``444`` full.
        faces: Detector: ``yunet``, ``cascade`` (bundled, finds fewer), ``boxes`` (a CSV of each
            recording, OpenFace's too: the manifest's column boxes, or NAME.csv beside it), or
            ``none`` for pictures that are faces already.
        detector: Settings of the detector: of yunet ``min_score`` (0.6), ``longest_side`` (320
            pixels, to which frames are made smaller: faces narrower than a sixteenth of that are
            missed, 960 takes some eight times as long) and ``first_side`` (a smaller side, from 64
            on, at which frames are looked at first: faster, for one person near the camera), of
            cascade ``min_neighbours`` (4) and ``smallest_face`` (20
            pixels; larger is faster).
        face_choice: Which of several faces: the ``largest``, the most ``central``, ``all`` (one
            sample for each, as long as it is seen and the scene lasts, named KEY_face0, KEY_face1,
            …), or ``speaking``: the one whose mouth goes with the sound, in each segment of
            max_seconds anew, as long as it is seen.
        identity: With ``all``: ``sface`` joins faces of different scenes that are one person's (one
            key, a segment a scene), by OpenCV's SFace, fetched once (39 MB; HICMAE_SFACE names a
            file). Faces are compared within one recording; nothing of it is stored, nobody named.
        sync: Also measure how well each mouth goes with the sound; the receipt names samples whose
            picture and sound do not belong together or have slipped. ``speaking`` does so anyway.
        face_margin: How much of the face box's side is added around it.
        face_smoothing_seconds: Over what time the box's movements are smoothed (standard
            deviation); 0: not at all.
        face_gap_seconds: How long a moving face may stay unfound and still be the same one.
        align: ``eyes`` turns and scales every image so that the eyes are level and in their
            place; ``none`` keeps pictures upright.
        detect_every: Frames from one detection to the next; the box is interpolated in between.
        image_fps: Frame rate of folders and .npy stacks of images that have no rate of their own
            (the manifest's column fps, OpenFace's CSV), frames per second; none: they are refused.
        stack_colours: Which colour is first in .npy stacks of images (T, H, W, 3) uint8: ``bgr`` as
            OpenCV and MERTools write them, or ``rgb``; none given: stacks are refused.
        min_coverage: Least share of the frames shown to the detector in which it finds the face.
        box: With ``faces: none``: cut x0, y0, x1, y1 out of every frame, pixels; none given: the
            largest square in its middle.
        silence_db: Sound below this level counts as silent, decibels relative to full scale.

    Raises: ValueError: what cannot be, every problem in one line.
    """

    face_size: int = 160
    fps: float = 25.0
    jpeg_quality: int = 90
    chroma: Literal["420", "444"] = "420"
    faces: str = "yunet"
    detector: dict[str, Any] = field(default_factory=dict, hash=False)
    face_choice: Literal["largest", "central", "all", "speaking"] = "largest"
    sync: bool = False
    identity: str = "none"
    face_margin: float = 0.3
    face_smoothing_seconds: float = 0.2
    face_gap_seconds: float = 1.0
    align: Literal["none", "eyes"] = "none"
    detect_every: int = 5
    image_fps: float | None = None
    stack_colours: Literal["bgr", "rgb"] | None = None
    min_coverage: float = 0.1
    box: tuple[int, int, int, int] | None = None
    silence_db: float = -70.0

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ValueError(f"faces: {'; '.join(problems)}")

    @property
    def needs_mouths(self) -> bool:
        """Whether mouths are looked at, so that tracks must say where they are."""
        return self.sync or self.face_choice == "speaking"

    @property
    def follows_all(self) -> bool:
        """Whether every face is followed, each while it is seen and the scene lasts."""
        return self.face_choice in ("all", "speaking")

    def problems(self) -> list[str]:
        """What is wrong with it."""
        problems = outside(self, {"positive": "face_size fps detect_every image_fps"})
        if not 1 <= self.jpeg_quality <= 100:
            problems.append(f"jpeg_quality = {self.jpeg_quality} (must lie between 1 and 100)")
        if not (known := _is_known(self.faces)):
            names = detector_names()
            near = did_you_mean(self.faces, names)
            problems.append(f"faces = {self.faces!r}{near} (one of {', '.join(names)})")
        elif self.faces in DETECTORS:
            try:
                DETECTORS[self.faces].configure(self.detector, where="detector")
            except ValueError as error:
                problems.append(f"{error} (with faces = {self.faces})")
        elif self.detector:
            problems.append(f"detector is given with faces = {self.faces}, which detects nothing")
        for name, choices in (
            ("face_choice", ("largest", "central", "all", "speaking")),
            ("align", ("none", "eyes")),
            ("chroma", ("420", "444")),
        ):
            if (found := getattr(self, name)) not in choices:
                problems.append(f"{name} = {found!r} (one of {', '.join(choices)})")
        lengths = "face_margin face_smoothing_seconds face_gap_seconds"
        problems += outside(self, {"0 or more": lengths})
        if self.align == "eyes" and known and not finds_eyes(self.faces):
            problems.append(
                f"align = eyes with faces = {self.faces}, which finds no eyes (it needs yunet, or "
                "boxes with eyes)"
            )
        if self.identity != _NONE:
            problems += self._identity_problems()
        if self.stack_colours not in (None, "bgr", "rgb"):
            problems.append(f"stack_colours = {self.stack_colours!r} (bgr or rgb)")
        if self.faces == _NONE and self.needs_mouths:
            asked = "sync = true" if self.sync else "face_choice = speaking"
            problems.append(f"{asked} with faces = none, which finds no faces (it needs yunet)")
        if not self.silence_db <= 0:
            problems.append(f"silence_db = {self.silence_db} (must be 0 or less)")
        if not 0 <= self.min_coverage <= 1:
            problems.append(f"min_coverage = {self.min_coverage} (must lie between 0 and 1)")
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            if self.faces != _NONE:
                problems.append(f"box is given with faces = {self.faces} (it needs faces: none)")
            if not (0 <= x0 < x1 and 0 <= y0 < y1 and x1 - x0 == y1 - y0):
                problems.append(f"box = {list(self.box)} (must be a square x0, y0, x1, y1)")
        return problems

    def _identity_problems(self) -> list[str]:
        if self.identity not in EMBEDDERS:
            load_plugins()
        if self.identity not in EMBEDDERS:
            return [f"identity = {self.identity!r} (one of none, {', '.join(EMBEDDERS.names)})"]
        problems = []
        if self.face_choice != "all":
            problems.append(f"identity with face_choice = {self.face_choice} (it needs all)")
        if self.identity == "sface" and self.faces != "yunet":
            problems.append(f"identity = sface with faces = {self.faces} (it needs yunet)")
        return problems

    @classmethod
    def of_build(cls, build: Mapping[str, Any], *, where: str) -> FaceConfig:
        """Read it out of the settings of a build; what else they say is left aside.

        Raises: ValueError: a value that cannot be one.
        """
        names = {field.name for field in dataclasses.fields(FaceConfig)} & set(build)
        return from_dict(FaceConfig, {name: build[name] for name in names}, where=where)

    @classmethod
    def default(cls, input: InputConfig) -> FaceConfig:
        """That of ``hicmae shards build``, at the size and rate of a network's input."""
        return FaceConfig(face_size=input.image_size, fps=input.fps)


def open_detector(
    faces: str, settings: Mapping[str, Any] | None = None, *, offline: bool = False
) -> FaceDetector | None:
    """Open a detector by its name; None for ``boxes`` and ``none``.

    Args:
        faces: Its name.
        settings: Of its own; none given: its defaults.
        offline: Never fetch its file; nor is it where ``HICMAE_OFFLINE`` is set.

    Raises:
        FileNotFoundError: The detector's file is missing.
        ValueError: An unknown name or setting, or a file that is not what it should be.
    """
    if not _is_known(faces):
        raise ValueError(f"face detector {faces!r}: choose among {', '.join(detector_names())}")
    if faces not in DETECTORS:
        return None
    configured = DETECTORS[faces].configure(settings or {}, where=f"face detector {faces}")
    return DETECTORS[faces].make(configured, offline=offline)


def scaled(frame: np.ndarray, longest_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale a frame (H, W, C) so that its longest side has this many pixels.

    Returns: the scaled frame, and (2,) what its x and y are multiplied with to get the frame's.
    """
    import cv2

    height, width = frame.shape[:2]
    scale = longest_side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(frame, size, interpolation=method), np.array([width, height]) / size


def _is_known(faces: str) -> bool:
    """Whether there is such a detector; installed packages are asked for what is not here."""
    if faces not in detector_names():
        load_plugins()  # a worker process has not done so yet
    return faces in detector_names()
