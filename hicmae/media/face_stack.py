"""Stacks of face images in a NumPy file, read like videos: OpenFace's faces as MERTools has them.

Source: ``generate_face_videoOne`` of zeroQiaoba/MERTools writes what OpenCV read, blue first, as
(T, H, W, 3) uint8, an image for every frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hicmae.media.errors import MediaError

SUFFIX = ".npy"


def is_stack(path: Path) -> bool:
    """Whether a file holds pictures by its name and head; features have fewer dimensions."""
    if path.suffix.lower() != SUFFIX or path.is_dir():
        return False
    try:
        return bool(np.load(path, mmap_mode="r").ndim == 4)
    except (ValueError, OSError, EOFError):
        return False


class StackReader:
    """Frames of a stack (T, H, W, 3) uint8; see ``hicmae.media.video.FrameReader``.

    Args:
        path: The file.
        fps: Its frame rate; None: nobody said.
        colours: ``bgr`` or ``rgb``; None: nobody said, and the file cannot.

    Raises:
        MediaError: ``unreadable`` (no array, or of another shape or type), ``no-colours``,
            ``no-rate``.
    """

    def __init__(self, path: Path, fps: float | None, colours: str | None) -> None:
        try:
            stack = np.load(path, mmap_mode="r")
        except (ValueError, EOFError) as error:  # OSError is said as of any file
            words = ("pickle", "objects")  # by NumPy's version
            objects = any(word in str(error) for word in words)
            found = "objects: its pictures differ in size" if objects else str(error)
            raise MediaError("unreadable", path, f"no stack of pictures ({found})") from None
        if stack.ndim != 4 or stack.shape[3] != 3 or not stack.size:
            wanted = "(pictures, rows, columns, 3 colours)"
            raise MediaError("unreadable", path, f"has the shape {stack.shape}, not {wanted}")
        if stack.dtype != np.uint8:
            remedy = "must be uint8, 0..255"
            raise MediaError("unreadable", path, f"holds {stack.dtype} numbers ({remedy})")
        if fps is None:
            remedy = "give its frame rate: --image_fps, or a column fps in the manifest"
            raise MediaError("no-rate", path, f"a stack has no times; {remedy}")
        if colours is None:
            means = stack[:: max(1, len(stack) // 16)].mean(axis=(0, 1, 2))
            likely = "bgr" if means[2] > means[0] else "rgb"
            raise MediaError(
                "no-colours",
                path,
                "a stack does not say which colour is first: --stack_colours bgr (OpenCV, "
                f"MERTools) or rgb; by the redness of skin it is {likely}",
            )
        self.path, self._stack, self._reverse = path, stack, colours == "bgr"
        self.fps = fps
        self.frame_clock = self.timestamps = np.arange(len(stack)) / fps
        self.origin_seconds = self.start_seconds = 0.0
        self.duration_seconds = len(stack) / fps
        self.height, self.width = stack.shape[1:3]
        self.changes: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._stack)

    def __enter__(self) -> StackReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing stays open."""

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Give frames one at a time, (H, W, 3) uint8 RGB."""
        for index in map(int, indices):
            frame = self._stack[index]
            yield np.ascontiguousarray(frame[..., ::-1] if self._reverse else frame)
