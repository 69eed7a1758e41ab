"""One face, or the sound, from its first to its last moment, and the windows open in it.

For: the images that windows need, each cut out once and dropped with its last window. They go
through the JPEG codec as those of shards do: the network sees what it was trained on. Not for: the
recording (``cutting.py``).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from hicmae.media.jpeg import decode_jpeg, encode_jpeg
from hicmae.media.preparation import Preparation
from hicmae.media.square import crop_face, crop_reduction
from hicmae.media.tracking import FaceTrack
from hicmae.prediction.settings import WindowLayout
from hicmae.views import test_views

_THUMBNAIL_PIXELS, _MOST_THUMBNAILS = 96, 12


class Stretch:
    """One face from its first to its last frame, or the sound, and the windows open in it.

    Args:
        name: Of the track.
        num_frames: Of it, at the network's rate.
        layout: Of the windows.
        preparation: How its images are made; None for sound.
        track: The face; None for sound.
        indices: (T,) frames of the recording at the network's rate.
    """

    def __init__(
        self,
        *,
        name: str,
        num_frames: int,
        layout: WindowLayout,
        preparation: Preparation | None = None,
        track: FaceTrack | None = None,
        indices: np.ndarray | None = None,
    ) -> None:
        self.name, self.num_frames, self.track = name, num_frames, track
        self.first = 0 if track is None else track.first
        self.starts = layout.starts(num_frames)
        self.number = 0
        self._layout, self._preparation = layout, preparation
        self._images: dict[int, np.ndarray] = {}
        count = min(_MOST_THUMBNAILS, len(self.starts))
        self._pictured = set(np.linspace(0, len(self.starts) - 1, count).round().astype(int))
        self._wanted = np.zeros(num_frames, dtype=bool)
        self._reduction = 1.0
        if track is not None and indices is not None and preparation is not None:
            for start in self.starts:
                for view in self.views(start):
                    self._wanted[view] = True
            # As if each frame of the recording were there once, which is how shards are built.
            part = indices[self.first : self.first + num_frames]
            distinct = np.unique(part, return_index=True)[1]
            self._reduction = crop_reduction(track.boxes[distinct], preparation.face_size)

    def length(self, start: int) -> int:
        """Frames of the window that starts there."""
        return min(self._layout.window_frames, self.num_frames - start)

    def views(self, start: int) -> list[np.ndarray]:
        """(T,) frames, counted in this stretch, of each clip of the window that starts there."""
        clip, length = self._layout.input, self.length(start)
        clip_frames = clip.num_frames * clip.frame_stride
        count = min(self._layout.num_clips, math.ceil(length / clip_frames))
        return [
            start + view for view in test_views(length, clip.num_frames, clip.frame_stride, count)
        ]

    def wanted(self, num_frames: int) -> np.ndarray:
        """(num_frames,) bool, of the recording: which frames its windows need."""
        whole = np.zeros(num_frames, dtype=bool)
        whole[self.first : self.first + self.num_frames] = self._wanted
        return whole

    def put(self, position: int, frame: np.ndarray) -> None:
        """Cut this face out of a frame of the recording, if a window needs it."""
        place = position - self.first
        if not (0 <= place < self.num_frames and self._wanted[place]):
            return
        assert self.track is not None
        assert self._preparation is not None
        angle = 0.0 if self.track.angles is None else float(self.track.angles[place])
        box = self.track.boxes[place].astype(np.float64)
        size = self._preparation.face_size
        image = crop_face(frame, box, angle, size, self._reduction)
        quality, chroma = self._preparation.jpeg_quality, self._preparation.chroma
        self._images[place] = decode_jpeg(encode_jpeg(image, quality=quality, chroma=chroma))

    def images(self, view: np.ndarray) -> np.ndarray | None:
        """(T, H, W, 3) of a clip; None for sound."""
        if self.track is None:
            return None
        return np.stack([self._images[place] for place in view.tolist()])

    def thumbnail(self) -> bytes:
        """The middle image of the present window, small, if it is one to be shown."""
        if self.track is None or self.number not in self._pictured:
            return b""
        start = self.starts[self.number]
        middle = start + self.length(start) / 2
        place = min(self._images, key=lambda place: abs(place - middle))
        side = (_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS)
        small = cv2.resize(self._images[place], side, interpolation=cv2.INTER_AREA)
        return encode_jpeg(small, quality=85, chroma="420")

    def end_window(self) -> None:
        """Go on to the next window and drop what it does not need."""
        self.number += 1
        keep = self.starts[self.number] if self.number < len(self.starts) else math.inf
        self._images = {place: image for place, image in self._images.items() if place >= keep}
