"""What the decoding process says: where it is, whose faces it follows, and the windows.

For: both ends of the pipe. Not for: results (``results.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Progress:
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
        start_seconds: Where it begins, seconds after the recording's first frame (or sample).
        end_seconds: Where it ends.
        num_windows: Windows there will be.
        boxes: (T, 4) float32 x0, y0, x1, y1 of the square that is cut out, pixels of the upright
            picture, one a frame at ``fps``; none for sound.
        angles: (T,) float32 radians by which the square is turned, clockwise; None: not at all.
        found_by: (T,) words, see ``hicmae.media.tracking.FaceTrack``; none for sound.
        coverage: Share of the frames handed to the detector in which it found this face.
        fps: Of the boxes.
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

    @property
    def is_face(self) -> bool:
        """Whether it is seen, not only heard."""
        return len(self.boxes) > 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a recording holds, said before its first window.

    Args:
        tracks: The faces, or the sound alone.
        seconds: Length of the recording.
        width: Of the upright picture, pixels; 0 without one.
        height: Likewise.
        start_seconds: Where the picture (or the sound) begins on the container's own clock.
        has_sound: Whether sound goes into the windows.
        notes: What the user should know about this recording, a line each.
    """

    tracks: tuple[Followed, ...]
    seconds: float
    width: int
    height: int
    start_seconds: float
    has_sound: bool
    notes: tuple[str, ...] = ()


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
    """The stretch of time that one prediction is about.

    Args:
        track: Name of the face, or ``sound``.
        number: Of the window in its track, from 0.
        start_seconds: After the recording's first frame (or sample).
        end_seconds: Likewise; a short track ends before its window would.
        clips: What covers it.
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
    """A recording that cannot be predicted.

    Args:
        cause: A word of ``hicmae.media.errors.CAUSES``, or ``error``.
        message: One line.
    """

    cause: str
    message: str
