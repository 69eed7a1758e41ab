"""A folder of frame images, read like a video.

For: recordings that exist as images only. The number of an image is its time: where numbers are
missing, time goes on. Not for: finding the images (``image_files.py``) or sound.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from hicmae.media.errors import MediaError
from hicmae.media.image_files import ImageFiles, list_images

# OpenCV gives what there is of a JPEG that breaks off, and says nothing; whole ones end so. Some
# cameras put a little behind it.
_JPEG_START, _JPEG_END, _TRAILER_BYTES = b"\xff\xd8", b"\xff\xd9", 65536
# Frame times of a CSV that OpenFace wrote are steps of the frame rate, rounded to milliseconds.
_FEWEST_STAMPS = 2


class ImageReader:
    """Frames of one sequence of images; see ``hicmae.media.video.FrameReader``.

    Pictures of another size than the first one's are brought to it.

    Args:
        images: The sequence.
        fps: Frame rate of its numbers, frames per second.

    Raises:
        MediaError: ``damaged``: the first image cannot be read; ``no-video``: there is none.
    """

    def __init__(self, images: ImageFiles, fps: float) -> None:
        if not images.paths:
            raise MediaError("no-video", images.folder, "a folder without images (bmp, jpg, png)")
        self.images = images
        self.path = images.folder
        self.timestamps = np.array(images.frames, dtype=np.float64) / fps
        self.frame_clock = np.arange(images.frames[-1] + 1) / fps
        self.start_seconds = 0.0
        self.duration_seconds = (images.frames[-1] + 1) / fps
        self.fps = fps
        self.height, self.width = read_image(images.paths[0]).shape[:2]

    def __len__(self) -> int:
        return len(self.images.paths)

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing stays open."""

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Give frames one at a time, (H, W, 3) uint8 RGB; an index that repeats is read once.

        Raises:
            MediaError: ``damaged``, naming the image.
        """
        last, frame = -1, np.empty(0)
        for index in map(int, indices):
            if index != last:
                last, frame = index, read_image(self.images.paths[index])
                if frame.shape[:2] != (self.height, self.width):
                    frame = cv2.resize(
                        frame, (self.width, self.height), interpolation=cv2.INTER_AREA
                    )
            yield frame


def open_images(folder: str | Path, fps: float | None = None) -> list[ImageReader]:
    """Open the sequences of images of a folder, the longest first.

    Args:
        folder: Of the images.
        fps: Frame rate of their numbers; none given: that of OpenFace's CSV beside the folder.

    Raises:
        MediaError: ``no-video``, ``no-rate``, ``unreadable``, or ``damaged`` (the first image).
    """
    folder = Path(folder)
    sequences = list_images(folder)
    if not sequences:
        raise MediaError("no-video", folder, "a folder without images (bmp, jpg, png)")
    rate = fps or _openface_rate(folder)
    if rate is None:
        raise MediaError(
            "no-rate",
            folder,
            "images have no times; give their frame rate: --image_fps, or a column fps in the "
            "manifest",
        )
    sequences.sort(key=lambda sequence: -len(sequence.paths))
    return [ImageReader(sequence, rate) for sequence in sequences]


def read_image(path: Path) -> np.ndarray:
    """Read one image as (H, W, 3) uint8 RGB.

    Raises:
        MediaError: ``damaged``: it is gone, breaks off or is no image; the message names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError("damaged", path, f"this image cannot be read ({error.strerror})") from None
    whole = not data.startswith(_JPEG_START) or _JPEG_END in data[-_TRAILER_BYTES:]
    pixels = None
    if data and whole:
        pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        what = "breaks off" if data and not whole else "is empty" if not data else "is no image"
        raise MediaError("damaged", path, f"this image {what} ({len(data)} bytes)")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _openface_rate(folder: Path) -> float | None:
    """The rate by the columns frame and timestamp of ``<name>.csv`` beside ``<name>_aligned``."""
    path = folder.with_name(f"{folder.name.removesuffix('_aligned')}.csv")
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True)
        header = [name.strip().lower() for name in next(reader, [])]
        if not {"frame", "timestamp"} <= set(header):
            return None
        places = header.index("frame"), header.index("timestamp")
        try:
            stamps = [tuple(float(cells[place]) for place in places) for cells in reader if cells]
        except (ValueError, IndexError):
            return None
    if len(stamps) < _FEWEST_STAMPS or stamps[-1][1] <= stamps[0][1]:
        return None
    return (stamps[-1][0] - stamps[0][0]) / (stamps[-1][1] - stamps[0][1])
