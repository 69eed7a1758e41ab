"""A face followed over time: from detections in some frames to a square in every frame.

Detections are joined into chains, one a face, which end where the scene does; gaps are bridged,
the box is smoothed and, where that is asked for, turned by the eyes.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import linear_sum_assignment

from hicmae.media.faces import Face, FaceConfig

# Where the eyes lie in YuNet's boxes, as shares of the longer side: their distance, and how far
# above the middle. Medians of 95 frames of real clips; quartiles 0.323..0.353 and 0.105..0.141.
EYE_DISTANCE, EYE_RISE = 0.34, 0.12
# How far below the middle the mouth lies; the median of 31 clips.
_MOUTH_DROP = 0.226
_NUM_PORTRAITS = 5
_MARKS_SECONDS = 0.12  # over which the places of eyes and mouth are smoothed
# A head turned sideways brings its eyes together; its box hardly shrinks. The square never gets
# smaller than this share of the box's longer side.
_LEAST_SIDE = 0.9
# How much two boxes must overlap (intersection over union) to be the same face: little while it
# was seen just before, since heads move; more after a long gap, when only one that stayed counts.
_SAME_FACE, _SAME_FACE_AFTER_GAP = 0.2, 0.5
_SIDE = 32  # of a thumbnail, pixels
# What two frames of a scene have in common, correlation of brightness, and by how much they differ,
# 0..255. Of 1389 pairs of frames 0.2 s apart out of 60 real recordings, ten were on the far side
# of both, cuts and the wildest camera movements; of 1770 pairs out of two recordings 93 % were (the
# rest show one studio). Talking heads of one take stayed above a correlation of 0.47.
_ALIKE, _DIFFERENT = 0.4, 15.0
# What tells two people in one studio apart: what the face in a place has in common with the one
# there 0.2 s before, correlation of brightness over the box and a margin, at the least; more where
# the frame has changed by so many times the median of the last pairs, and by so much, 0..255. In
# 32 real recordings, 735 pairs, the one cut was found and no other; of 872 passages from the end of
# one to the beginning of another one's 871 were, 791 of them by the whole frames alone.
_SAME_LOOK, _SAME_LOOK_IN_A_JUMP, _LOOK_MARGIN = 0.5, 0.85, 0.15
_JUMP, _LEAST_JUMP, _FEWEST_CHANGES, _MOST_CHANGES = 6.0, 8.0, 3, 10


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """A face in T frames in a row.

    Args:
        boxes: (T, 4) float32 x0, y0, x1, y1, square, pixels; may reach outside the frame.
        found_by: (T,) words: ``detected``; ``interpolated`` between detections; ``held`` before
            the first or after the last; ``centre`` where nothing was asked to detect; ``absent``
            between the scenes in which a person is seen (``identity.py``).
        coverage: Share of the frames handed to the detector in which it found this face, 0..1; 1
            where nothing was asked to detect.
        face_pixels: Median of the longer side of the detector's boxes, without the margin, pixels;
            None where nothing was asked to detect.
        angles: (T,) float32 radians by which each square is turned about its middle, clockwise as
            seen; None: not at all.
        first: Frame number of the first of the T frames.
        marks: (T, 2, 2) float32 x, y of the middles between the eyes and of the mouth, pixels; None
            where nobody asks (``FaceConfig.needs_mouths``).
        portraits: A few of the detections, with the number of the frame each is in.
    """

    boxes: np.ndarray
    found_by: np.ndarray
    coverage: float
    face_pixels: float | None = None
    angles: np.ndarray | None = None
    first: int = 0
    marks: np.ndarray | None = None
    portraits: tuple[tuple[int, Face], ...] = ()

    @property
    def seen(self) -> list[tuple[int, int]]:
        """Where the face is in the picture: frames of this track, first and behind the last."""
        edges = np.flatnonzero(np.diff(np.pad(self.found_by != "absent", 1).astype(np.int8)))
        return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]

    def starting(self, first: int) -> FaceTrack:
        """The same with another number for its first frame."""
        return replace(self, first=first)

    def between(self, begin: int, end: int) -> FaceTrack:
        """What there is of it in the frames ``begin`` to ``end``."""
        begin, end = max(begin, self.first), min(end, self.first + len(self.boxes))
        return self.take(np.arange(begin, end) - self.first).starting(begin)

    def take(self, places: np.ndarray) -> FaceTrack:
        """The same for other frames: place i becomes ``places[i]``."""
        return replace(
            self,
            boxes=self.boxes[places],
            found_by=self.found_by[places],
            angles=None if self.angles is None else self.angles[places],
            marks=None if self.marks is None else self.marks[places],
        )


def runs_of(words: np.ndarray) -> tuple[tuple[str, int], ...]:
    """Words (T,), such as ``FaceTrack.found_by``, as run lengths."""
    return tuple((word, len(list(run))) for word, run in itertools.groupby(map(str, words)))


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
    chains = link(detections, times, config.face_gap_seconds)
    if not chains:
        return None
    policy = POLICIES[config.face_choice]
    chain = max(chains, key=lambda chain: policy(chain.boxes, frame_size))
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
            ``face_gap_seconds`` is another one when it comes back.
        cuts: Frame numbers, among those of the detections, at which another scene has begun; a
            face is another one in it.

    Returns: tracks in the order in which they begin, from left to right.
    """
    sampled = np.array(sorted(detections))
    tracks = []
    for chain in link(detections, times, config.face_gap_seconds, rejoin=False, cuts=cuts):
        begin, end = chain.places[0], chain.places[-1] + 1
        num_asked = int(np.count_nonzero((sampled >= begin) & (sampled < end)))
        tracks.append(_filled(chain, times, begin, end, num_asked, config))
    return tracks


def centre_track(num_frames: int, frame_size: tuple[int, int]) -> FaceTrack:
    """The middle square of the picture in every frame."""
    height, width = frame_size
    square = np.array([width / 2, height / 2, min(height, width)])
    return fixed_track(num_frames, _corners(square[None])[0], "centre")


def fixed_track(
    num_frames: int, box: Sequence[float] | np.ndarray, found_by: str = "box"
) -> FaceTrack:
    """The same square x0, y0, x1, y1 (pixels) of the picture in every frame."""
    boxes = np.tile(np.array(box, dtype=np.float32), (num_frames, 1))
    return FaceTrack(boxes=boxes, found_by=np.full(num_frames, found_by), coverage=1.0)


class SceneCuts:
    """Where scenes begin among frames that go by; of the frames the last is kept, and tiny.

    Attributes: places: Of the frames that show another scene than the one before: other colours in
        another arrangement, or in the place of every face another one.
    """

    def __init__(self) -> None:
        self.places: set[int] = set()
        self._before: np.ndarray | None = None
        self._faces: list[Face] = []
        self._looks: list[np.ndarray] = []
        self._changes: deque[float] = deque(maxlen=_MOST_CHANGES)

    def see(self, place: int, frame: np.ndarray, faces: Sequence[Face] = ()) -> None:
        """Look at the next frame (H, W, 3) uint8 and the faces in it; places ascend."""
        glance, looks = thumbnail(frame), [_look(frame, face.box) for face in faces]
        if self._before is not None:
            change = float(np.abs(self._before - glance).mean())
            if is_cut(self._before, glance) or self._others_in_place(faces, looks, change):
                self.places.add(place)
            self._changes.append(change)
        self._before, self._faces, self._looks = glance, list(faces), looks

    def _others_in_place(
        self, faces: Sequence[Face], looks: Sequence[np.ndarray], change: float
    ) -> bool:
        """Whether faces are where faces were, and none of them looks like the one before."""
        if not faces or not self._faces:
            return False
        usual = np.median(self._changes) if len(self._changes) >= _FEWEST_CHANGES else np.inf
        jumped = change >= max(_LEAST_JUMP, _JUMP * float(usual))
        needed = _SAME_LOOK_IN_A_JUMP if jumped else _SAME_LOOK
        boxes = [np.stack([face.box for face in some]) for some in (self._faces, faces)]
        pairs = np.argwhere(_overlaps(*boxes) >= _SAME_FACE)
        return len(pairs) > 0 and all(
            _correlation(self._looks[before], looks[now]) < needed for before, now in pairs
        )


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """A frame (H, W, 3) uint8 at a glance: float32 (32, 32, 3)."""
    step = max(1, min(frame.shape[:2]) // (2 * _SIDE))  # most pixels need not be looked at
    few = np.ascontiguousarray(frame[::step, ::step])
    return cv2.resize(few, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether two thumbnails show different scenes: other colours in another arrangement."""
    if np.abs(before - after).mean() < _DIFFERENT:
        return False
    return not _correlation(before, after) >= _ALIKE


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Of the brightness of two thumbnails, -1..1; with a blank one nan."""
    one, other = (image.mean(axis=2) - image.mean() for image in (first, second))
    scale = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float((one * other).sum()) / scale if scale > 0 else float("nan")


def _look(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A face (x0, y0, x1, y1) with a margin at a glance: float32 (32, 32, 3)."""
    height, width = frame.shape[:2]
    margin = _LOOK_MARGIN * float((box[2:] - box[:2]).max())
    x0, y0 = np.clip(box[:2] - margin, 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(box[2:] + margin, [x0 + 1, y0 + 1], [width, height]).astype(int)
    part = np.ascontiguousarray(frame[y0:y1, x0:x1])
    return cv2.resize(part, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


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
        faces = detections[place]
        scene = place if place in cuts else scene
        for face in faces:
            if face.track is not None:
                named.setdefault(face.track, Chain()).add(place, face)
        faces = [face for face in faces if face.track is None]
        free = set(range(len(faces)))
        # Two samples in a row are no gap, however sparse the frames are.
        since = min(times[place] - max_gap_seconds, times[sampled[max(number - 1, 0)]])
        earlier = [chain for chain in chains if chain.places[-1] >= scene]
        if not rejoin:
            earlier = [chain for chain in earlier if times[chain.places[-1]] >= since]
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
        chains += [Chain([place], [faces[column]]) for column in sorted(free)]
    return sorted(
        [*chains, *named.values()],
        key=lambda chain: (chain.places[0], float(chain.faces[0].box[0])),
    )


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


def _filled(
    chain: Chain, times: np.ndarray, begin: int, end: int, num_asked: int, config: FaceConfig
) -> FaceTrack:
    """A square for each of the frames ``begin`` to ``end`` out of the detections of one face."""
    places, boxes = np.array(chain.places), chain.boxes
    aligned = config.align == "eyes"
    poses = _poses_by_eyes(chain) if aligned else _poses_by_boxes(boxes)  # (n, 4)
    poses[:, 2] *= 1 + config.face_margin
    span = times[begin:end]
    filled = np.stack([np.interp(span, times[places], column) for column in poses.T], axis=1)
    filled = smooth(filled, span, config.face_smoothing_seconds)  # (T, 4)
    found_by = np.full(end - begin, "interpolated")
    found_by[: places[0] - begin] = "held"
    found_by[places[-1] + 1 - begin :] = "held"
    found_by[places - begin] = "detected"
    few = np.unique(np.linspace(0, len(places) - 1, _NUM_PORTRAITS).round().astype(int))
    return FaceTrack(
        boxes=_corners(filled),
        found_by=found_by,
        coverage=len(places) / max(num_asked, 1),
        face_pixels=float(np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1))),
        angles=filled[:, 3].astype(np.float32) if aligned else None,
        first=begin,
        marks=_marks(chain, span, times) if config.needs_mouths else None,
        portraits=tuple((chain.places[at], chain.faces[at]) for at in few.tolist()),
    )


def _marks(chain: Chain, span: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Where eyes and mouth are at each of the times ``span``: (T, 2, 2), see ``FaceTrack``."""
    poses, known = _poses_by_boxes(chain.boxes), []
    for pose, face in zip(poses, chain.faces, strict=True):
        down = np.array([0.0, pose[2]])
        eyes, mouth = pose[:2] - EYE_RISE * down, pose[:2] + _MOUTH_DROP * down
        if face.landmarks is not None:
            eyes, mouth = face.landmarks[:2].mean(axis=0), face.landmarks[3:].mean(axis=0)
        known.append(np.concatenate([eyes, mouth]))
    columns = np.array(known).T
    marks = np.stack([np.interp(span, times[chain.places], column) for column in columns], axis=1)
    return smooth(marks, span, _MARKS_SECONDS).reshape(-1, 2, 2).astype(np.float32)


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
