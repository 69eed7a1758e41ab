"""YuNet, OpenCV's small face detector with five landmarks.

Its network is a file of 232 KB that is not part of this package; it is fetched once, when a
detector is opened.

Source: W. Wu, H. Peng, S. Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023; the file is
``face_detection_yunet_2023mar.onnx`` of OpenCV's model zoo.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from hicmae.download import OFFLINE_VARIABLE, DownloadError, fetch, is_offline
from hicmae.media.faces import DETECTORS, Face, scaled
from hicmae.settings import outside, raise_all

FILE_NAME = "face_detection_yunet_2023mar.onnx"
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
SOURCE = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/{FILE_NAME}"
VARIABLE = "HICMAE_YUNET"
# 99.7 % of 673 frames of 50 real clips, 1.6 to 3 ms each on one core, were found at this size.
_USUAL_SIDE = 320
_MOST_SIDE = 4096
# On 32 pixels or less OpenCV's network reads memory that nothing was written to, and finds faces.
_SHORTEST_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class YunetSettings:
    """Settings of YuNet.

    Args:
        file: The network; none given: where ``find_yunet`` finds it, else it is fetched.
        min_score: Faces below it are not reported, 0 to 1.
        first_side: Longest side, pixels, at which a frame is looked at first; only where no face is
            found there, at ``longest_side``. Several times as fast, for one person near the camera:
            small faces beside a large one are missed. None: always at ``longest_side``.
        longest_side: Longest side, pixels, to which frames are made smaller. Faces are found that
            are some 16 to 20 pixels wide there: of 25 of five people in 1280x720, all from 100
            pixels on at 320 (half of them at 50), from 40 on at 640, from 30 on at 960.
    """

    file: Path | None = None
    min_score: float = 0.6
    first_side: int | None = None
    longest_side: int = _USUAL_SIDE

    def __post_init__(self) -> None:
        bounds = {
            "within 0..1": "min_score",
            f"within {_USUAL_SIDE}..{_MOST_SIDE}": "longest_side",
        }
        problems = outside(self, bounds)
        side, longest = self.first_side, self.longest_side
        if side is not None and not _SHORTEST_SIDE <= side <= longest:
            problems.append(f"first_side = {side} (must lie within {_SHORTEST_SIDE}..{longest})")
        raise_all("yunet", problems)


@DETECTORS.register("yunet", settings=YunetSettings)
class YunetDetector:
    """YuNet on frames scaled to a longest side of 320 pixels or more, or first to a smaller one.

    Raises:
        FileNotFoundError: The network is nowhere and cannot or must not be fetched.
        ValueError: The file is not the one with the known digest.
    """

    name = "yunet"

    def __init__(self, settings: YunetSettings, *, offline: bool = False) -> None:
        import cv2

        network = read_yunet(get_yunet(settings.file, offline=offline))
        self._network = cv2.FaceDetectorYN.create(
            "onnx",
            np.frombuffer(network, dtype=np.uint8),
            np.empty(0, dtype=np.uint8),
            (_USUAL_SIDE, _USUAL_SIDE),
            settings.min_score,
        )
        self._first, self._longest = settings.first_side, settings.longest_side

    def detect(self, frame: np.ndarray) -> list[Face]:
        """Find faces in (H, W, 3) uint8 RGB."""
        longest = min(self._longest, max(*frame.shape[:2], _USUAL_SIDE))  # enlarged up to here
        sides = [longest] if self._first is None else [self._first, longest]
        return next((faces for side in sides if (faces := self._look(frame, side))), [])

    def _look(self, frame: np.ndarray, longest_side: int) -> list[Face]:
        import cv2

        small, back = scaled(frame, longest_side)
        below, right = (max(0, _SHORTEST_SIDE - side) for side in small.shape[:2])
        if below or right:
            small = cv2.copyMakeBorder(small, 0, below, 0, right, cv2.BORDER_CONSTANT)
        self._network.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self._network.detect(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        return [] if rows is None else [_face(row, back) for row in rows]


def get_yunet(file: str | Path | None = None, *, offline: bool = False) -> Path:
    """Find the network's file (``find_yunet``), or fetch it into the user's cache.

    Nothing is fetched with ``offline`` or where ``HICMAE_OFFLINE`` is set.

    Raises:
        FileNotFoundError: It is nowhere, and offline or not to be had; the line says what to do.
    """
    try:
        return find_yunet(file)
    except FileNotFoundError as error:
        if file or os.environ.get(VARIABLE) or offline or is_offline():
            raise
        try:
            return fetch(SOURCE, cached_yunet(), sha256=SHA256)
        except (DownloadError, OSError) as failure:
            raise FileNotFoundError(f"{error} ({failure})") from None


def cached_yunet() -> Path:
    """Where the file lies in the user's cache."""
    return Path(platformdirs.user_cache_dir("hicmae")) / FILE_NAME


def find_yunet(file: str | Path | None = None) -> Path:
    """Find the network's file: the argument, ``HICMAE_YUNET``, beside a clone, the user's cache.

    Raises: FileNotFoundError: It is in none of these places; a file that was named is not replaced
        by another.
    """
    for named, origin in ((file, "given"), (os.environ.get(VARIABLE), VARIABLE)):
        if named:
            if not Path(named).is_file():
                raise FileNotFoundError(f"{named}: no such file ({origin} as YuNet's network)")
            return Path(named)
    beside_clone = Path(__file__).resolve().parents[3] / "shared" / "models" / FILE_NAME
    for place in (beside_clone, cached_yunet()):
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"{place}: YuNet's network is not there; let it be fetched (without --offline and "
        f"{OFFLINE_VARIABLE}), put the file from {SOURCE} there, name it in {VARIABLE}, or use "
        "--faces cascade, which finds fewer faces"
    )


def read_yunet(file: Path) -> bytes:
    """Read the network. Raises ValueError: its digest is not the known one."""
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{file}: not YuNet's network: sha256 {digest[:16]}… ({len(data)} bytes), expected "
            f"{SHA256[:16]}…; get it from {SOURCE}"
        )
    return data


def _face(row: np.ndarray, back: np.ndarray) -> Face:
    """Read a row: x, y, width, height, five landmarks (the person's right eye first), score."""
    box = np.concatenate([row[:2] * back, (row[:2] + row[2:4]) * back]).astype(np.float32)
    marks = (row[4:14].reshape(5, 2) * back).astype(np.float32)  # eyes, nose, corners of the mouth
    return Face(box=box, score=float(row[14]), eyes=marks[:2], landmarks=marks)
