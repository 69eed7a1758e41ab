"""Detections of many frames joined into chains, one for each face that was seen.

For: telling faces apart over time, and choosing among them. Not for: what happens between the
detections of a chain (``tracking.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from hicmae.media.detection import Face

# How much two boxes must overlap (intersection over union) to be the same face: little while it
# was seen just before, since heads move; more after a long gap, when only one that stayed counts.
_SAME_FACE, _SAME_FACE_AFTER_GAP = 0.2, 0.5


@dataclass
class Chain:
    """Detections of one face, ascending in time: frame numbers and what was found in each."""

    places: list[int] = field(default_factory=list)
    faces: list[Face] = field(default_factory=list)

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) float64 x0, y0, x1, y1, pixels."""
        return np.stack([face.box for face in self.faces]).astype(np.float64)

    def add(self, place: int, face: Face) -> None:
        """Append a detection."""
        self.places.append(place)
        self.faces.append(face)


def link(
    detections: Mapping[int, Sequence[Face]],
    times: np.ndarray,
    max_gap_seconds: float,
    *,
    rejoin: bool = True,
    cuts: Collection[int] = (),
) -> list[Chain]:
    """Join detections of successive frames into chains, the best total overlap first.

    Faces that carry a track of their own (``Face.track``) are joined by it alone.

    Args:
        detections: Frame number -> faces, for every frame that was looked at.
        times: (T,) seconds of all frames, ascending.
        max_gap_seconds: How long a face may stay unfound and still be the same where it moved.
        rejoin: Whether a face that stayed in its place is the same after any gap; if not, it is
            another one.
        cuts: Frames, among those looked at, in which another scene is seen than in the one before;
            no face goes on from there.

    Returns: the chains in the order in which they begin, from left to right where they begin
        together.
    """
    sampled = sorted(detections)
    chains: list[Chain] = []
    named: dict[str, Chain] = {}
    scene = 0
    for number, place in enumerate(sampled):
        faces = list(detections[place])
        scene = place if place in cuts else scene
        for face in [face for face in faces if face.track is not None]:
            assert face.track is not None
            if face.track not in named:
                named[face.track] = Chain()
            named[face.track].add(place, face)
        faces = [face for face in faces if face.track is None]
        free = set(range(len(faces)))
        # Two samples in a row are no gap, however sparse the frames are.
        since = min(times[place] - max_gap_seconds, times[sampled[max(number - 1, 0)]])
        earlier = [
            chain
            for chain in chains
            if chain.places[-1] >= scene and (rejoin or times[chain.places[-1]] >= since)
        ]
        if earlier and faces:
            overlap = _overlaps(
                np.stack([chain.faces[-1].box for chain in earlier]),
                np.stack([face.box for face in faces]),
            )
            near = np.array([times[chain.places[-1]] >= since for chain in earlier])
            needed = np.where(near, _SAME_FACE, _SAME_FACE_AFTER_GAP)[:, None]
            allowed = np.where(overlap >= needed, overlap, 0.0)
            for row, column in zip(*linear_sum_assignment(-allowed), strict=True):
                if allowed[row, column] > 0:
                    earlier[row].add(place, faces[column])
                    free.discard(int(column))
        for column in sorted(free):
            chain = Chain()
            chain.add(place, faces[column])
            chains.append(chain)
    return sorted(
        [*chains, *named.values()],
        key=lambda chain: (chain.places[0], float(chain.faces[0].box[0])),
    )


def choose(chains: Sequence[Chain], policy: str, frame_size: tuple[int, int]) -> Chain:
    """The chain that a policy of ``POLICIES`` names, given height and width of the frames."""
    return max(chains, key=lambda chain: POLICIES[policy](chain.boxes, frame_size))


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
