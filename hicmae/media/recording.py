"""A recording, opened: its picture at a constant rate, its sound and its faces, on one clock.

Building shards and predicting go this way, so that a network sees of a raw recording what it was
trained on. A dropped frame is filled with its nearest neighbour, never shifted.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hicmae.bench import Stopwatch
from hicmae.media.boxes import BoxTable
from hicmae.media.crops import FaceCutter
from hicmae.media.errors import MediaError
from hicmae.media.faces import (
    Face,
    FaceConfig,
    FaceDetector,
    FaceEmbedder,
    no_face_remedy,
    open_detector,
)
from hicmae.media.identity import joined, same_people
from hicmae.media.images import (
    STACK_SUFFIX,
    ImageReader,
    StackReader,
    open_images,
    sound_beside,
)
from hicmae.media.sound import Sound, read_sound, read_span_sound
from hicmae.media.tracking import (
    FaceTrack,
    SceneCuts,
    centre_track,
    face_track,
    face_tracks,
    fixed_track,
)
from hicmae.media.video import (
    FrameReader,
    VideoReader,
    constant_rate_indices,
    has_own_frame,
    open_video,
)

Finder = FaceDetector | BoxTable | None
Picture = VideoReader | ImageReader | StackReader
Region = tuple[float, float, float, float]

# Frames up to this many bytes are kept between detecting and cutting; longer or larger recordings
# are decoded twice instead.
_KEPT_BYTES = 192 * 2**20
ROUNDING_SECONDS = 1e-6  # of sums of times


def open_pictures(
    path: Path, *, image_fps: float | None = None, colours: str | None = None
) -> list[Picture]:
    """Open the picture of a video, the sequences of images that a folder holds, or a .npy stack.

    Args:
        path: The recording.
        image_fps: Frame rate of images that have none of their own.
        colours: Which colour is first in a stack.

    Returns: one reader; of a folder in which several faces were numbered apart, one for each, the
        one with the most images first.

    Raises: as ``open_video``, ``open_images`` and ``StackReader``.
    """
    if path.is_dir():
        return list(open_images(path, image_fps))
    if path.suffix.lower() == STACK_SUFFIX:
        return [StackReader(path, image_fps, colours)]
    return [open_video(path)]


class Recording:
    """The picture of a recording, or a span of it, at a constant rate. Use it as a context manager.

    Args:
        path: The recording, as messages name it.
        picture: Of it, see ``open_pictures``; closed with this.
        config: How faces are found, followed and cut out.
        fps: Frames per second wanted.
        start: Of the span, seconds after the recording's beginning; None, or before the picture's
            beginning: there.
        end: Of the span; None, or beyond the picture's end: there.
        min_seconds: The least length of the span.
        watch: Counts processor time: ``decoding`` and ``faces``.
        tell: Called with the time of each frame that is decoded, seconds after the beginning.

    Attributes:
        start: Time of the first frame wanted, seconds on the container's clock.
        indices: (T,) int64, the frame of the picture for each ``start + i / fps``; ascending, with
            repeats where frames are missing.

    Raises: MediaError: ``too-short``.
    """

    def __init__(
        self,
        path: Path,
        picture: FrameReader,
        config: FaceConfig,
        *,
        fps: float,
        start: float | None = None,
        end: float | None = None,
        min_seconds: float = 0.0,
        watch: Stopwatch | None = None,
        tell: Callable[[float], None] | None = None,
    ) -> None:
        self.path, self.picture, self.config, self.fps = path, picture, config, fps
        self._watch, self._tell = watch or Stopwatch(), tell
        self._kept: dict[int, np.ndarray] = {}
        self._is_span = start is not None or end is not None
        first, origin = picture.start_seconds, picture.origin_seconds
        last = first + picture.duration_seconds
        # A span may say more than there is: the picture begins and ends where it does. Less than a
        # frame is filled with the nearest one.
        self.start = first
        if start is not None and origin + start > first - 1 / fps:
            self.start = origin + start
        stop = last if end is None else min(origin + end, last)
        self.indices = np.zeros(0, dtype=np.int64)
        if self.start < stop:
            self.indices = constant_rate_indices(
                picture.timestamps, fps, self.start, stop, last=last
            )
        # Either: a span of the least length may hold half a frame less than that, or more.
        longest = max(self.seconds, stop - self.start + ROUNDING_SECONDS)
        if not len(self.indices) or longest < min_seconds:
            span = span_words(start, end)
            raise MediaError(
                "too-short",
                path,
                f"{f'{span} holds ' * bool(span)}{max(stop - self.start, 0):.2f} s of picture "
                f"(min_seconds is {min_seconds:g})",
            )

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.picture.close()

    @property
    def seconds(self) -> float:
        """Length of the span at the constant rate."""
        return len(self.indices) / self.fps

    @property
    def end(self) -> float:
        """Where the span ends, seconds on the container's clock."""
        return self.start + self.seconds

    @property
    def offset(self) -> float:
        """Where the span begins, seconds after the recording's beginning."""
        return self.start - self.picture.origin_seconds

    @property
    def times(self) -> np.ndarray:
        """(T,) seconds for which ``indices`` stand."""
        return self.start + np.arange(len(self.indices)) / self.fps

    @property
    def own(self) -> np.ndarray:
        """(T,) bool, whether the picture has a frame of that time; else the nearest stands in."""
        return has_own_frame(self.picture.timestamps, self.indices, self.times)

    def follow(
        self,
        finder: Finder,
        *,
        region: Region | None = None,
        keep: bool = True,
        embedder: FaceEmbedder | None = None,
    ) -> list[FaceTrack]:
        """Follow the face that the settings choose, or with ``face_choice: all`` or ``speaking``
        every face, each as long as it is seen and the scene lasts.

        Args:
            finder: A detector, or boxes that are known; None: the middle square, or ``box``.
            region: Part of the picture whose faces count: x0, y0, x1, y1 as shares of its width
                and height; a face lies where its middle does. None: all of it.
            keep: Whether frames that were decoded for the detector are kept for ``crops``, where
                they are few enough.
            embedder: Joins faces of different scenes that are one person's.

        Returns: tracks over the frames at the constant rate, at least one.

        Raises: MediaError: ``no-face``, ``bad-boxes``, ``damaged``, or ``frame-size``: the picture
            is smaller than the fixed box.
        """
        frame_size, config = (self.picture.height, self.picture.width), self.config
        if config.box is not None:
            if config.box[2] > frame_size[1] or config.box[3] > frame_size[0]:
                raise MediaError(
                    "frame-size",
                    self.path,
                    f"its frames are {frame_size[1]}x{frame_size[0]} pixels, too small for the box "
                    f"{list(config.box)}",
                )
            return [fixed_track(len(self.indices), config.box)]
        if finder is None:
            return [centre_track(len(self.indices), frame_size)]
        unique, repeats = np.unique(self.indices, return_counts=True)
        times = self.picture.timestamps[unique]
        # Cuts are looked for where a detector looks for faces, not in lists of boxes.
        scenes = SceneCuts() if config.follows_all else None
        with self._watch.stage("faces"):
            detections = self._detect(finder, unique, region, scenes, keep)
            if scenes is not None:
                tracks = face_tracks(detections, times, config, scenes.places)
                if embedder is not None and len(tracks) > 1:
                    tracks = self._people(tracks, unique, embedder)
            else:
                track = face_track(detections, times, frame_size, config)
                tracks = [] if track is None else [track]
        if not tracks:
            raise MediaError(
                "no-face",
                self.picture.path,
                f"{finder.name} found no face in {len(detections)} of its frames; "
                f"{no_face_remedy(finder.name)}",
            )
        return [_repeated(track, repeats) for track in tracks]

    def crops(self, track: FaceTrack) -> Iterator[np.ndarray]:
        """The images of a face, (face_size, face_size, 3) uint8 RGB, one for each of its frames.

        Iterators of several faces do not depend on each other's progress.

        Raises: MediaError: ``damaged``.
        """
        part = self.indices[track.first : track.first + len(track.boxes)]
        distinct, places, counts = np.unique(part, return_index=True, return_counts=True)
        cutter = FaceCutter(track, self.indices, self.config)
        frames = self._frames(distinct)
        if self._kept:
            frames = iter([self._kept[index] for index in distinct.tolist()])
        for frame, place, count in zip(frames, places.tolist(), counts.tolist(), strict=True):
            with self._watch.stage("faces"):
                image = cutter.cut(frame, place)
            for _ in range(count):
                yield image

    def frames(self, positions: np.ndarray) -> Iterator[np.ndarray]:
        """The frames (H, W, 3) uint8 RGB at ascending positions of the constant rate.

        Raises: MediaError: ``damaged``.
        """
        return self._frames(self.indices[positions])

    def sound(self, audio: Path | None = None, *, sample_rate: int) -> Sound:
        """The sound on the picture's clock, up to the end of the span.

        Args:
            audio: A sound file of its own, which begins with the picture, whatever its stamps.
            sample_rate: Wanted, Hz.

        Raises: as ``read_sound``; MediaError: ``no-sound``, of a folder of images too.
        """
        path, first = sound_file(self.path, audio), self.picture.start_seconds
        read = read_span_sound if self._is_span else read_sound
        if audio is None and path == self.path:
            return read(path, sample_rate=sample_rate, end_seconds=self.end)
        sound = read(
            path, sample_rate=sample_rate, end_seconds=self.end - first, from_beginning=True
        )
        return sound.shifted(first)

    def _detect(
        self,
        finder: FaceDetector | BoxTable,
        unique: np.ndarray,
        region: Region | None,
        scenes: SceneCuts | None,
        keep: bool,
    ) -> dict[int, list[Face]]:
        """Faces by place in ``unique``; frames that the detector saw are shown to ``scenes``."""
        picture = self.picture
        if isinstance(finder, BoxTable):
            detections = finder.faces(picture, unique)
        else:
            sampled = sorted({*range(0, len(unique), self.config.detect_every), len(unique) - 1})
            if keep and len(unique) * picture.height * picture.width * 3 <= _KEPT_BYTES:
                kept = list(self._frames(unique))
                self._kept = dict(zip(unique.tolist(), kept, strict=True))
                frames = iter([kept[place] for place in sampled])
            else:
                frames = self._frames(unique[sampled])
            detections = {}
            for place, frame in zip(sampled, frames, strict=True):
                detections[place] = finder.detect(frame)
                if scenes is not None:
                    scenes.see(place, frame, detections[place])
        if region is None:
            return detections
        size = np.array([picture.width, picture.height])
        low, high = np.array(region[:2]) * size, np.array(region[2:]) * size
        return {
            place: [face for face in faces if _lies_in(face, low, high)]
            for place, faces in detections.items()
        }

    def _people(
        self, tracks: list[FaceTrack], unique: np.ndarray, embedder: FaceEmbedder
    ) -> list[FaceTrack]:
        """Tracks of faces over the frames ``unique``, joined where they are one person's."""
        vectors: list[list[np.ndarray]] = [[] for _ in tracks]
        wanted = sorted({place for track in tracks for place, _ in track.portraits})
        for place, frame in zip(wanted, self._frames(unique[wanted]), strict=True):
            for track, found in zip(tracks, vectors, strict=True):
                found += [
                    embedder.embed(frame, face) for at, face in track.portraits if at == place
                ]
        means = [np.mean(found, axis=0) for found in vectors]
        means = [mean / max(float(np.linalg.norm(mean)), 1e-9) for mean in means]
        spans = [(track.first, track.first + len(track.boxes)) for track in tracks]
        return joined(tracks, same_people(spans, means, embedder.same))

    def _frames(self, indices: np.ndarray) -> Iterator[np.ndarray]:
        frames = self._watch.iterate("decoding", self.picture.frames(indices))
        for index, frame in zip(indices.tolist(), frames, strict=True):
            if self._tell is not None:
                self._tell(float(self.picture.timestamps[index]) - self.picture.origin_seconds)
            yield frame


def span_words(start: float | None, end: float | None) -> str:
    """How a message names the span that was asked for; "": none was."""
    if end is not None:
        return f"its span {start or 0:g}..{end:g} s"
    return "" if start is None else f"its span from {start:g} s on"


def sound_file(path: Path, audio: Path | None = None) -> Path:
    """Where the sound of a recording is: the file that was named, beside a folder, or in itself.

    Raises: MediaError: ``no-sound``: a folder of images without.
    """
    if audio is None:
        audio = sound_beside(path) if has_no_sound(path) else path
    if audio is None:
        what = "folder" if path.is_dir() else "stack"
        raise MediaError("no-sound", path, f"a {what} of images with no sound file beside it")
    return audio


def has_no_sound(path: Path) -> bool:
    """Whether it is images alone, whose sound can only lie in a file of its own."""
    return path.is_dir() or path.suffix.lower() == STACK_SUFFIX


@functools.cache
def _one_detector(faces: str, settings: str, offline: bool) -> FaceDetector | None:
    return open_detector(faces, json.loads(settings), offline=offline)


def shared_detector(config: FaceConfig, *, offline: bool) -> FaceDetector | None:
    """The detector of these settings, one for all recordings of a process; as ``open_detector``."""
    return _one_detector(config.faces, json.dumps(config.detector, default=str), offline)


def _lies_in(face: Face, low: np.ndarray, high: np.ndarray) -> bool:
    middle = (face.box[:2] + face.box[2:]) / 2
    return bool(np.all(middle >= low) and np.all(middle < high))


def _repeated(track: FaceTrack, repeats: np.ndarray) -> FaceTrack:
    """A track of distinct frames with each of them as often as it was asked for."""
    begin, end = track.first, track.first + len(track.boxes)
    repeated = track.take(np.repeat(np.arange(end - begin), repeats[begin:end]))
    return repeated.starting(int(repeats[:begin].sum()))
