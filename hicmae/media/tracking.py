"""A face followed over time: from detections in some frames to a square in every frame.

For: bridging gaps, smoothing, and turning the square by the eyes. Not for: detecting
(``faces.py``), telling faces apart (``linking.py``) or cutting out (``crops.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d

from hicmae.media.detection import Face
from hicmae.media.faces import FaceConfig
from hicmae.media.linking import Chain, choose, link

# Where the eyes lie in YuNet's boxes, as shares of the longer side: their distance, and how far
# above the middle. Medians of 95 frames of real clips; quartiles 0.323..0.353 and 0.105..0.141.
EYE_DISTANCE, EYE_RISE = 0.34, 0.12
# A head turned sideways brings its eyes together; its box hardly shrinks. The square never gets
# smaller than this share of the box's longer side.
_LEAST_SIDE = 0.9


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """A face in T frames in a row.

    Args:
        boxes: (T, 4) float32 x0, y0, x1, y1, square, pixels; may reach outside the frame.
        found_by: (T,) words: ``detected``; ``interpolated`` between detections; ``held`` before
            the first or after the last; ``centre`` where nothing was asked to detect.
        coverage: Share of the frames handed to the detector in which it found this face, 0..1; 1
            where nothing was asked to detect.
        face_pixels: Median of the longer side of the detector's boxes, without the margin, pixels;
            None where nothing was asked to detect.
        angles: (T,) float32 radians by which each square is turned about its middle, clockwise as
            seen; None: not at all.
        first: Frame number of the first of the T frames.
    """

    boxes: np.ndarray
    found_by: np.ndarray
    coverage: float
    face_pixels: float | None = None
    angles: np.ndarray | None = None
    first: int = 0

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

    def starting(self, first: int) -> FaceTrack:
        """The same with another number for its first frame."""
        return replace(self, first=first)

    def take(self, places: np.ndarray) -> FaceTrack:
        """The same for other frames: place i becomes ``places[i]``."""
        return replace(
            self,
            boxes=self.boxes[places],
            found_by=self.found_by[places],
            angles=None if self.angles is None else self.angles[places],
        )


def face_track(
    detections: Mapping[int, Sequence[Face]],
    times: np.ndarray,
    frame_size: tuple[int, int],
    config: FaceConfig,
) -> FaceTrack | None:
    """Follow the face that the policy names through all frames.

    Args:
        detections: Frame number -> faces, for every frame the detector saw, empty ones included.
        times: (T,) seconds of all frames, ascending.
        frame_size: Height and width of the frames, pixels.
        config: Policy, gaps, margin, alignment and smoothing.

    Returns: the track, or None where no frame has a face.
    """
    chains = link(detections, times, config.max_gap_seconds)
    if not chains:
        return None
    chain = choose(chains, config.policy, frame_size)
    return _filled(chain, times, 0, len(times), len(detections), config)


def face_tracks(
    detections: Mapping[int, Sequence[Face]],
    times: np.ndarray,
    config: FaceConfig,
    cuts: Collection[int] = (),
) -> list[FaceTrack]:
    """Follow every face, each from the first frame in which it was found to the last.

    Args:
        detections: As for ``face_track``.
        times: (T,) seconds of all frames, ascending.
        config: Gaps, margin, alignment and smoothing. A face lost for longer than
            ``max_gap_seconds`` is another one when it comes back.
        cuts: Frame numbers, among those of the detections, at which another scene has begun; a
            face is another one in it.

    Returns: tracks in the order in which they begin, from left to right.
    """
    sampled = np.array(sorted(detections))
    tracks = []
    for chain in link(detections, times, config.max_gap_seconds, rejoin=False, cuts=cuts):
        begin, end = chain.places[0], chain.places[-1] + 1
        num_asked = int(np.count_nonzero((sampled >= begin) & (sampled < end)))
        tracks.append(_filled(chain, times, begin, end, num_asked, config))
    return tracks


def centre_track(num_frames: int, frame_size: tuple[int, int]) -> FaceTrack:
    """The middle square of the picture in every frame."""
    height, width = frame_size
    square = np.array([[width / 2, height / 2, min(height, width)]])
    return FaceTrack(
        boxes=_corners(square.repeat(num_frames, axis=0)),
        found_by=np.full(num_frames, "centre"),
        coverage=1.0,
    )


def fixed_track(num_frames: int, box: tuple[int, int, int, int]) -> FaceTrack:
    """The same square x0, y0, x1, y1 (pixels) of the picture in every frame."""
    return FaceTrack(
        boxes=np.array([box], dtype=np.float32).repeat(num_frames, axis=0),
        found_by=np.full(num_frames, "box"),
        coverage=1.0,
    )


def _filled(
    chain: Chain, times: np.ndarray, begin: int, end: int, num_asked: int, config: FaceConfig
) -> FaceTrack:
    """A square for each of the frames ``begin`` to ``end`` out of the detections of one face."""
    places, boxes = np.array(chain.places), chain.boxes
    aligned = config.align == "eyes"
    poses = _poses_by_eyes(chain) if aligned else _poses_by_boxes(boxes)  # (n, 4)
    poses[:, 2] *= 1 + config.margin
    span = times[begin:end]
    filled = np.stack([np.interp(span, times[places], column) for column in poses.T], axis=1)
    filled = smooth(filled, span, config.smoothing_seconds)  # (T, 4)
    found_by = np.full(end - begin, "interpolated")
    found_by[: places[0] - begin] = "held"
    found_by[places[-1] + 1 - begin :] = "held"
    found_by[places - begin] = "detected"
    return FaceTrack(
        boxes=_corners(filled),
        found_by=found_by,
        coverage=len(places) / max(num_asked, 1),
        face_pixels=float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1))),
        angles=filled[:, 3].astype(np.float32) if aligned else None,
        first=begin,
    )


def _poses_by_boxes(boxes: np.ndarray) -> np.ndarray:
    """Centre x, centre y, side and angle (n, 4) of upright squares about boxes (n, 4)."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return np.column_stack([centre, size.max(axis=1), np.zeros(len(boxes))])


def _poses_by_eyes(chain: Chain) -> np.ndarray:
    """The same for squares that hold the eyes level, in their place and at their distance.

    Detections without eyes (where a list of boxes has some) keep their box and are upright.
    """
    poses = _poses_by_boxes(chain.boxes)
    for pose, face in zip(poses, chain.faces, strict=True):
        if face.eyes is None:
            continue
        left, right = np.asarray(face.eyes, dtype=np.float64)
        angle = np.arctan2(right[1] - left[1], right[0] - left[0])
        side = max(np.linalg.norm(right - left) / EYE_DISTANCE, _LEAST_SIDE * pose[2])
        down = np.array([-np.sin(angle), np.cos(angle)])
        pose[:2] = (left + right) / 2 + EYE_RISE * side * down
        pose[2:] = side, angle
    poses[:, 3] = np.unwrap(poses[:, 3])
    return poses


def smooth(values: np.ndarray, times: np.ndarray, seconds: float) -> np.ndarray:
    """Smooth (T, K) over time without lagging behind slow movements or flattening them.

    A Gaussian, applied once more to what it left over ("twicing"): its gain 1 - (1 - g)² stays
    near 1 for movements that take several times ``seconds``, where g alone falls off. At both
    ends the series goes on mirrored in its last value, so that a steady movement stays one.

    Args:
        values: One row a frame.
        times: (T,) seconds, ascending.
        seconds: Standard deviation of the Gaussian; 0: no smoothing.

    Source: J. W. Tukey, Exploratory Data Analysis, 1977 (twicing).
    """
    if seconds <= 0 or len(times) < 2:
        return values
    sigma = seconds / max(float(np.median(np.diff(times))), 1e-3)
    reach = round(8 * sigma)  # twice the width at which the Gaussian is cut off
    padded = np.pad(values, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    once = gaussian_filter1d(padded, sigma, axis=0)
    twice = once + gaussian_filter1d(padded - once, sigma, axis=0)
    return twice[reach : reach + len(values)]


def _corners(squares: np.ndarray) -> np.ndarray:
    """From centre x, centre y, side (T, 3 or more) to x0, y0, x1, y1 (T, 4) float32."""
    centre, half = squares[:, :2], squares[:, 2:3] / 2
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
