"""Stretches of a recording, each a face or the sound, and their windows while its frames go by.

Never held are frames, sound or images beyond the windows that are open.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from hicmae.bench import Stopwatch
from hicmae.media.crops import FaceCutter, encode_jpeg
from hicmae.media.recording import Recording
from hicmae.media.sound import SoundSpans
from hicmae.media.tracking import FaceTrack
from hicmae.prediction.messages import Clip, Window, WindowLayout
from hicmae.views import sound_span, test_views

_THUMBNAIL_PIXELS, _MOST_THUMBNAILS = 96, 12


class Cutter:
    """The stretches of a recording while its frames go by.

    Args:
        stretches: In the order in which they begin.
        start: Where the recording begins on the container's clock, seconds.
        watch: Counts the stages ``images`` and ``sound``.
    """

    def __init__(
        self,
        stretches: list[Stretch],
        layout: WindowLayout,
        sound: SoundSpans | None,
        start: float,
        watch: Stopwatch,
    ) -> None:
        self._all, self._layout, self._sound = stretches, layout, sound
        self._start, self._watch = start, watch
        self._coming = sorted(stretches, key=lambda stretch: stretch.first)
        self._open: list[Stretch] = []

    def needed(self, num_frames: int) -> np.ndarray:
        """(num_frames,) bool: which frames of the recording any window needs."""
        needed = np.zeros(num_frames, dtype=bool)
        for stretch in self._all:
            needed |= stretch.wanted(num_frames)
        return needed

    def take(self, position: int, frame: np.ndarray) -> Iterator[Window]:
        """Take the frame at a position; gives the windows that are complete with it."""
        while self._coming and self._coming[0].first <= position:
            self._open.append(self._coming.pop(0))
        with self._watch.stage("images"):
            for stretch in self._open:
                stretch.put(position, frame)
        yield from self._complete(position)

    def rest(self) -> Iterator[Window]:
        """The windows that no frame completes: of sound alone."""
        self._open, self._coming = [*self._open, *self._coming], []
        yield from self._complete(sys.maxsize)

    def _complete(self, position: int) -> Iterator[Window]:
        """Windows that end by a frame, in the order in which they do: sound goes by once."""
        while ready := [stretch for stretch in self._open if stretch.last <= position]:
            yield self._window(min(ready, key=lambda stretch: stretch.last))
        self._open = [stretch for stretch in self._open if stretch.last < math.inf]

    def _window(self, stretch: Stretch) -> Window:
        fps, piece = self._layout.input.fps, stretch.pieces[stretch.at]
        begin = stretch.offset + (stretch.first + piece.start) / fps
        window = Window(
            track=stretch.name,
            number=piece.number,
            start_seconds=begin,
            end_seconds=begin + piece.length / fps,
            clips=tuple(self._clip(stretch, view, piece.end) for view in stretch.views(piece)),
            thumbnail=stretch.thumbnail(),
        )
        stretch.go_on(stretch.at + 1)
        return window

    def _clip(self, stretch: Stretch, view: np.ndarray, stop: int) -> Clip:
        """One clip, with the sound that belongs to it in a sample that ends at a frame."""
        frames = stretch.images(view)
        if self._sound is None:
            return Clip(frames=frames, waveform=None)
        input = self._layout.input
        with self._watch.stage("sound"):
            begin, end = sound_span(int(view[0]), input)
            origin = self._sound.number_at(self._start + stretch.first / input.fps)
            waveform, _ = self._sound.span(origin + begin, end - begin)
        # The sound of a sample is as long as its picture; beyond it there is none.
        valid = max(0, min(end, round(stop / input.fps * input.sample_rate)) - begin)
        waveform[valid:] = 0
        return Clip(frames=frames, waveform=waveform, num_samples=min(valid, end - begin))


class Piece(NamedTuple):
    """A window of a stretch, or a clip of one; frames are counted in the stretch."""

    number: int  # of the window
    start: int
    length: int
    end: int  # where the sound that belongs to it does


class Stretch:
    """One face from its first to its last frame, or the sound, and the windows open in it.

    The images that windows need are cut out once and dropped with the last window. They go through
    the JPEG codec as those of shards do: the network sees what it was trained on.

    Args:
        num_frames: Its length, at the network's rate.
        offset: Where its recording's frames begin, seconds after the recording's beginning.
        first: Its first frame, counted in the recording; sound may begin before.
        track, recording: The face, and what it is in; None for sound.
        starts: First frames of its windows; None: all that the layout gives.
    """

    def __init__(
        self,
        *,
        name: str,
        num_frames: int,
        layout: WindowLayout,
        offset: float = 0.0,
        first: int = 0,
        track: FaceTrack | None = None,
        recording: Recording | None = None,
        starts: Sequence[int] | None = None,
    ) -> None:
        self.name, self.num_frames, self.offset, self.track = name, num_frames, offset, track
        self.first, self.spans = first, tuple[int, ...]()
        self._layout = layout
        self._images: dict[int, np.ndarray] = {}
        if track is not None and recording is not None:
            self._cutter = FaceCutter(track, recording.indices, recording.config)
        pieces, seen = [], [(0, num_frames)] if track is None else track.seen
        for number, start in enumerate(layout.starts(num_frames) if starts is None else starts):
            # A window does not reach into another scene.
            last = next(end for begin, end in seen if begin <= start < end)
            pieces.append(Piece(number, start, min(layout.window_frames, last - start), last))
        self._plan(pieces)

    def ask(self, windows: Sequence[Piece]) -> None:
        """Have other windows, numbered by their spans; in the order of their middles."""
        self.spans = tuple(window.number for window in windows)
        clip = self._layout.input.num_frames * self._layout.input.frame_stride
        pieces = []
        for number, (_, start, length, end) in enumerate(windows):
            for view in self._views(start, length, math.ceil(length / clip)):
                begin = int(view[0])
                pieces.append(Piece(number, begin, min(clip, end - begin), end))
        self._plan(sorted(pieces, key=lambda piece: piece.start))

    def _plan(self, pieces: list[Piece]) -> None:
        self.pieces = pieces
        count = min(_MOST_THUMBNAILS, len(pieces))
        self._pictured = set(np.linspace(0, len(pieces) - 1, count).round().astype(int))
        self._wanted = np.zeros(self.num_frames, dtype=bool)
        for piece in pieces if self.track is not None else ():
            for view in self.views(piece):
                self._wanted[view] = True
        self.go_on(0)

    @property
    def num_windows(self) -> int:
        """How many different ones."""
        return len(self.spans) or len(self.pieces)

    def part(self, begin: int, end: int) -> tuple[int, int]:
        """The longest piece of a span of the recording's frames in which it is seen, counted here.

        Between two scenes with the same person nobody is seen.
        """
        seen = [(0, self.num_frames)] if self.track is None else self.track.seen
        low, high = max(
            ((max(begin - self.first, first), min(end - self.first, last)) for first, last in seen),
            key=lambda piece: piece[1] - piece[0],
        )
        return low, max(low, high)

    def share(self, begin: int, end: int) -> tuple[float, float]:
        """How much of a span of the recording's frames is here, and the area of its boxes.

        Of sound half of that counts, and a little less: a face that is seen for half goes first.
        """
        low, high = self.part(begin, end)
        share = (high - low) / (end - begin)
        if self.track is None or not share:
            return 0.499 * share, 0.0
        boxes = self.track.boxes[low:high]
        return share, float(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).mean())

    def views(self, piece: Piece) -> list[np.ndarray]:
        """(T,) frames, counted in this stretch, of each clip of a piece."""
        return self._views(piece.start, piece.length, self._layout.num_clips)

    def _views(self, start: int, length: int, most: int) -> list[np.ndarray]:
        clip = self._layout.input
        count = min(most, math.ceil(length / (clip.num_frames * clip.frame_stride)))
        return [
            start + view for view in test_views(length, clip.num_frames, clip.frame_stride, count)
        ]

    def wanted(self, num_frames: int) -> np.ndarray:
        """(num_frames,) bool, of the recording: which frames its windows need."""
        whole = np.zeros(num_frames, dtype=bool)
        if self.track is not None:
            whole[self.first : self.first + self.num_frames] = self._wanted
        return whole

    def put(self, position: int, frame: np.ndarray) -> None:
        """Cut this face out of a frame of the recording, if a window needs it."""
        place = position - self.first
        if 0 <= place < self.num_frames and self._wanted[place]:
            self._images[place] = self._cutter.cut_as_stored(frame, place)

    def images(self, view: np.ndarray) -> np.ndarray | None:
        """(T, H, W, 3) of a clip; None for sound."""
        if self.track is None:
            return None
        return np.stack([self._images[place] for place in view.tolist()])

    def thumbnail(self) -> bytes:
        """The middle image of the present window, small, if it is one to be shown."""
        if self.track is None or self.at not in self._pictured:
            return b""
        _, start, length, _ = self.pieces[self.at]
        middle = start + length / 2
        place = min(self._images, key=lambda place: abs(place - middle))
        side = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
        small = cv2.resize(self._images[place], side, interpolation=cv2.INTER_AREA)
        return encode_jpeg(small, quality=85, chroma="420")

    def go_on(self, at: int) -> None:
        """Go on to a piece and drop what it does not need; ``last`` is its last frame, counted in
        the recording.
        """
        self.at, self.last, keep = at, math.inf, math.inf
        if at < len(self.pieces):
            piece = self.pieces[at]
            self.last, keep = self.first + int(self.views(piece)[-1][-1]), piece.start
        self._images = {place: image for place, image in self._images.items() if place >= keep}
