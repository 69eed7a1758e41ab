"""One face followed over time: from detections in some frames to a square box in every frame.

For: choosing among several faces, bridging gaps, smoothing. Not for: detecting (``faces.py``) or
cutting out (``crops.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import linear_sum_assignment

from hicmae.media.detection import Face
from hicmae.media.faces import FaceConfig

# How much two boxes must overlap (intersection over union) to be the same face: little while it
# was seen just before, since heads move; more after a long gap, when only one that stayed counts.
_SAME_FACE, _SAME_FACE_AFTER_GAP = 0.2, 0.5


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """A face in every frame.

    Args:
        boxes: (T, 4) float32 x0, y0, x1, y1, square, pixels; may reach outside the frame.
        found_by: (T,) words: ``detected``; ``interpolated`` between detections; ``held`` before
            the first or after the last; ``centre`` where nothing was asked to detect.
        coverage: Share of the frames handed to the detector in which it found this face, 0..1; 1
            where nothing was asked to detect.
    """

    boxes: np.ndarray
    found_by: np.ndarray
    coverage: float

    @property
    def found(self) -> np.ndarray:
        """(T,) bool, whether the detector itself gave the box."""
        return self.found_by == "detected"

    @property
    def runs(self) -> tuple[tuple[str, int], ...]:
        """``found_by`` as run lengths."""
        return tuple(
            (word, len(list(run))) for word, run in itertools.groupby(map(str, self.found_by))
        )

    def take(self, places: np.ndarray) -> FaceTrack:
        """The same for other frames: place i becomes ``places[i]``."""
        return FaceTrack(
            boxes=self.boxes[places], found_by=self.found_by[places], coverage=self.coverage
        )


def face_track(
    detections: Mapping[int, Sequence[Face]],
    times: np.ndarray,
    frame_size: tuple[int, int],
    config: FaceConfig,
) -> FaceTrack | None:
    """Follow the face that the policy names.

    Args:
        detections: Frame number -> faces, for every frame the detector saw, empty ones included.
        times: (T,) seconds of all frames, ascending.
        frame_size: Height and width of the frames, pixels.
        config: Policy, gaps, margin and smoothing.

    Returns: the track, or None where no frame has a face.
    """
    sampled = sorted(detections)
    chains = _link(detections, sampled, times, config.max_gap_seconds)
    if not chains:
        return None
    chain = max(
        chains, key=lambda chain: POLICIES[config.policy](np.stack(chain.boxes), frame_size)
    )
    places, boxes = np.array(chain.places), np.stack(chain.boxes).astype(np.float64)
    squares = np.concatenate(
        [
            (boxes[:, :2] + boxes[:, 2:]) / 2,
            (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True) * (1 + config.margin),
        ],
        axis=1,
    )  # (number of detections, 3): centre x, centre y, side
    filled = np.stack(
        [np.interp(times, times[places], column) for column in squares.T], axis=1
    )  # (T, 3)
    filled = _smooth(filled, times, config.smoothing_seconds)
    found_by = np.full(len(times), "interpolated")
    found_by[: places[0]] = "held"
    found_by[places[-1] + 1 :] = "held"
    found_by[places] = "detected"
    return FaceTrack(boxes=_corners(filled), found_by=found_by, coverage=len(places) / len(sampled))


def centre_track(num_frames: int, frame_size: tuple[int, int]) -> FaceTrack:
    """The middle square of the picture in every frame."""
    height, width = frame_size
    square = np.array([[width / 2, height / 2, min(height, width)]])
    return FaceTrack(
        boxes=_corners(square.repeat(num_frames, axis=0)),
        found_by=np.full(num_frames, "centre"),
        coverage=1.0,
    )


@dataclass
class _Chain:
    """Detections of one face, ascending in time."""

    places: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)

    def add(self, place: int, box: np.ndarray) -> None:
        self.places.append(place)
        self.boxes.append(box)


def _link(
    detections: Mapping[int, Sequence[Face]],
    sampled: list[int],
    times: np.ndarray,
    max_gap_seconds: float,
) -> list[_Chain]:
    """Join detections of successive frames into chains, the best total overlap first."""
    chains: list[_Chain] = []
    for number, place in enumerate(sampled):
        faces = [face.box for face in detections[place]]
        free = set(range(len(faces)))
        if chains and faces:
            overlap = _overlaps(np.stack([chain.boxes[-1] for chain in chains]), np.stack(faces))
            gaps = np.array([times[place] - times[chain.places[-1]] for chain in chains])
            # Two samples in a row are no gap, however sparse the frames are.
            before = sampled[number - 1]
            in_a_row = np.array([chain.places[-1] == before for chain in chains])
            near = (gaps <= max_gap_seconds) | in_a_row
            needed = np.where(near, _SAME_FACE, _SAME_FACE_AFTER_GAP)[:, None]
            allowed = np.where(overlap >= needed, overlap, 0.0)
            for row, column in zip(*linear_sum_assignment(-allowed), strict=True):
                if allowed[row, column] > 0:
                    chains[row].add(place, faces[column])
                    free.discard(int(column))
        for column in sorted(free):
            chain = _Chain()
            chain.add(place, faces[column])
            chains.append(chain)
    return chains


def _largest(boxes: np.ndarray, frame_size: tuple[int, int]) -> float:
    """Mean area times number of detections of a chain (n, 4)."""
    return float(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum())


def _central(boxes: np.ndarray, frame_size: tuple[int, int]) -> float:
    """Nearness to the middle (1 in it, 0 in a corner) summed over the detections (n, 4)."""
    height, width = frame_size
    middle = np.array([width, height]) / 2
    distance = np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - middle, axis=1)
    return float((1 - distance / np.linalg.norm(middle)).sum())


# Name -> how well a chain of boxes (n, 4) fits, given height and width of the frame.
POLICIES: dict[str, Callable[[np.ndarray, tuple[int, int]], float]] = {
    "largest": _largest,
    "central": _central,
}


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) and (m, 4): (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_first = np.prod(first[:, 2:] - first[:, :2], axis=1)
    area_second = np.prod(second[:, 2:] - second[:, :2], axis=1)
    return shared / np.maximum(area_first[:, None] + area_second[None] - shared, 1e-9)


def _smooth(values: np.ndarray, times: np.ndarray, seconds: float) -> np.ndarray:
    """Gaussian over time of (T, 3), the ends held."""
    if seconds <= 0 or len(times) < 2:
        return values
    interval = max(float(np.median(np.diff(times))), 1e-3)
    return gaussian_filter1d(values, seconds / interval, axis=0, mode="nearest")


def _corners(squares: np.ndarray) -> np.ndarray:
    """From centre x, centre y, side (T, 3) to x0, y0, x1, y1 (T, 4) float32."""
    centre, half = squares[:, :2], squares[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
