"""Images read like videos: numbered in folders, or stacked in .npy files; and what lies in folders.

The number of an image is its time: where numbers are missing, time goes on. So are read aligned
faces of OpenFace, frames of DFEW and MAFW, anything that numbers its images. A stack (T, H, W, 3)
uint8 has an image for every frame, as ``generate_face_videoOne`` of zeroQiaoba/MERTools writes what
OpenCV read, blue first.
"""

from __future__ import annotations

import csv
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from hicmae.files import Closing
from hicmae.media.errors import MediaError
from hicmae.processes import show_life

# What a folder's files are taken for; a manifest may name any file. Not bare H.264 and its like,
# which do not say how many pictures a second they have.
# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".3g2", ".3gp", ".amv", ".apng", ".asf", ".avi", ".divx", ".dv", ".dvr-ms", ".f4v", ".flv",
    ".gxf", ".ismv", ".ivf", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg",
    ".mk3d", ".mkv", ".mod", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut",
    ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".tp", ".trp", ".ts", ".vob", ".vro", ".webm",
    ".wmv", ".wtv", ".y4m",
))
# fmt: on
IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png"))
# fmt: off
SOUND_SUFFIXES = (
    ".wav", ".flac", ".m4a", ".mp3", ".aac", ".ogg", ".opus", ".wma", ".3ga", ".ac3", ".aif",
    ".aifc", ".aiff", ".amr", ".ape", ".au", ".awb", ".caf", ".m4b", ".mka", ".mp2", ".oga",
    ".rf64", ".spx", ".w64", ".weba", ".wv", ".adts", ".bwf", ".dts", ".eac3", ".g722", ".gsm",
    ".isma", ".m4r", ".mpa", ".ra", ".snd", ".sph", ".tta", ".voc",
)
# fmt: on

STACK_SUFFIX = ".npy"

# Numbers further apart than this on average are times of day or identifiers.
_MOST_GAPS = 50
_LAST_NUMBER = re.compile(r"(.*?)(\d+)(\D*)", re.DOTALL)
# OpenFace writes frame_det_<face>_<frame>.bmp into <name>_aligned, without the frames in which it
# lost the face; it counts from 1, always.
_OPENFACE, _OPENFACE_FOLDER = re.compile(r"frame_det_\d+_"), "_aligned"

# OpenCV gives what there is of a JPEG that breaks off, and says nothing; whole ones end so. Some
# cameras put a little behind it, or before a marker, where it does no harm.
_JPEG_START, _JPEG_END, _TRAILER_BYTES = b"\xff\xd8", b"\xff\xd9", 65536
_PNG_START = b"\x89PNG\r\n\x1a\n"
_CORRUPT = re.compile(r"Corrupt JPEG data: (?!\d+ extraneous)")
# Frame times of a CSV that OpenFace wrote are steps of the frame rate, rounded to milliseconds.
_FEWEST_STAMPS = 2


def walk(folder: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[tuple[Path, bool]]:
    """What is below a folder and not hidden, in order: files, and folders of images in one piece.

    Args:
        folder: Where to begin.
        seen: Folders that were read already, by device and inode: one linked twice is read once.

    Returns: a file and False, or a folder that is one recording and True.
    """
    seen = set() if seen is None else seen
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    entries = [entry for entry in entries if not entry.name.startswith(".")]
    suffixes = {Path(entry.name).suffix.lower() for entry in entries}
    # Pictures beside videos are thumbnails and covers.
    images = bool(suffixes & IMAGE_SUFFIXES) and not suffixes & VIDEO_SUFFIXES
    if images := images and is_sequence(folder):
        yield folder, True
    for entry in entries:
        if os.path.isdir(entry.path):  # noqa: PTH112 (an entry raises for a link to itself)
            yield from walk(Path(entry.path), seen)
        elif not (images and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES):
            yield Path(entry.path), False


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """Images of one face or picture: N files, and their N frame numbers from 0, ascending.

    Gaps in the numbers are frames that have no image.
    """

    folder: Path
    paths: tuple[Path, ...]
    frames: tuple[int, ...]


def list_images(folder: Path) -> list[ImageFiles]:
    """The sequences of images in a folder, told apart by what stands before the number.

    The last number in a name is the frame's: counted from 0 if there is a 0, else from 1, so that
    frames missing at the beginning are missing and not shifted. Only numbers that begin later
    than there are images are taken for an excerpt, which begins with its first image (OpenFace's
    never are). Images without numbers are frames in a row, in the natural order of their names.

    Returns: sequences, in the order of their names; a folder without images has none.

    Raises: MediaError: ``unreadable``: two images of one frame, or a folder that cannot be read.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise MediaError("unreadable", folder, f"cannot be read ({error.strerror})") from None
    names = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    groups: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for name in sorted(names):
        match = _LAST_NUMBER.fullmatch(Path(name).stem)
        if match is None:
            groups.clear()
            break
        before, number, after = match.groups()
        other = groups[before, after].setdefault(int(number), name)
        if other != name:
            raise MediaError(
                "unreadable", folder, f"{other} and {name} are both frame {int(number)}"
            )
    if not groups or all(len(group) == 1 for group in groups.values()):
        paths = tuple(folder / name for name in sorted(names, key=natural_order))
        frames = tuple(range(len(paths)))
        return [ImageFiles(folder=folder, paths=paths, frames=frames)] if paths else []
    return [_sequence(folder, before, groups[before, after]) for before, after in sorted(groups)]


def is_sequence(folder: Path) -> bool:
    """Whether a folder holds numbered images, two or more of one name, and so is a recording."""
    try:
        return any(
            len(sequence.paths) > 1
            and all(_LAST_NUMBER.fullmatch(path.stem) for path in sequence.paths)
            for sequence in list_images(folder)
        )
    except MediaError:
        return True  # it is one, and says what is wrong with it when it is read


def is_stack(path: Path) -> bool:
    """Whether a file holds pictures by its name and head; features have fewer dimensions."""
    if path.suffix.lower() != STACK_SUFFIX or not path.is_file():  # a pipe would be waited for
        return False
    try:
        return bool(np.load(path, mmap_mode="r").ndim == 4)
    except (ValueError, OSError, EOFError):
        return False


def sound_beside(folder: Path) -> Path | None:
    """The sound file of a folder of images: beside it under its name, or the only one inside that
    is not hidden.

    ``<name>_aligned`` of OpenFace also takes the sound of ``<name>``, ``<name>.npy`` too.
    """
    name = folder.name if folder.is_dir() else folder.stem
    for stem in (name, name.removesuffix(_OPENFACE_FOLDER)):
        for suffix in (*SOUND_SUFFIXES, *map(str.upper, SOUND_SUFFIXES)):  # recorders write .WAV
            if (path := folder.with_name(f"{stem}{suffix}")).is_file():
                return path
    if not folder.is_dir():
        return None
    seen = (path for path in folder.iterdir() if not path.name.startswith("."))
    inside = [path for path in seen if path.suffix.lower() in SOUND_SUFFIXES]
    return inside[0] if len(inside) == 1 else None


def natural_order(name: str) -> list[tuple[int, str]]:
    """A sorting key by which ``f10`` comes after ``f9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


class _Pictures(Closing):
    """What readers of images share: frame numbers (N,) from 0 are times, and nothing stays open."""

    def __init__(self, path: Path, numbers: np.ndarray, fps: float) -> None:
        self.path, self.fps = path, fps
        self.timestamps = numbers / fps
        self.frame_clock = np.arange(numbers[-1] + 1) / fps
        self.origin_seconds = self.start_seconds = 0.0
        self.duration_seconds = float((numbers[-1] + 1) / fps)
        self.changes: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.timestamps)

    def close(self) -> None:
        """Nothing stays open."""


class ImageReader(_Pictures):
    """Frames of one sequence of images; see ``hicmae.media.video.FrameReader``.

    Pictures of another size than the first one's are brought to it; ``fps`` is the frame rate of
    their numbers, frames per second.

    Raises: MediaError: ``damaged``: the first image cannot be read; ``no-video``: there is none.
    """

    def __init__(self, images: ImageFiles, fps: float) -> None:
        if not images.paths:
            raise MediaError("no-video", images.folder, "a folder without images (bmp, jpg, png)")
        self.images = images
        super().__init__(images.folder, np.array(images.frames), fps)
        self.height, self.width = read_image(images.paths[0]).shape[:2]

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Give frames one at a time, (H, W, 3) uint8 RGB; an index that repeats is read once.

        Raises: MediaError: ``damaged``, naming the image.
        """
        last, frame = -1, np.empty(0)
        for index in map(int, indices):
            show_life()
            if index != last:
                last, frame = index, read_image(self.images.paths[index])
                size = (self.width, self.height)
                if frame.shape[1::-1] != size:
                    frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            yield frame


class StackReader(_Pictures):
    """Frames of a stack (T, H, W, 3) uint8; see ``hicmae.media.video.FrameReader``.

    Args:
        path: The file.
        fps: Its frame rate; None: nobody said.
        colours: ``bgr`` or ``rgb``; None: nobody said, and the file cannot.

    Raises: MediaError: ``unreadable`` (no array, or of another shape or type), ``no-colours``,
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
        super().__init__(path, np.arange(len(stack)), fps)
        self._stack, self._reverse = stack, colours == "bgr"
        self.height, self.width = stack.shape[1:3]

    def frames(self, indices: Iterable[int]) -> Iterator[np.ndarray]:
        """Give frames one at a time, (H, W, 3) uint8 RGB."""
        for index in map(int, indices):
            show_life()
            frame = self._stack[index]
            yield np.ascontiguousarray(frame[..., ::-1] if self._reverse else frame)


def open_images(folder: str | Path, fps: float | None = None) -> list[ImageReader]:
    """Open the sequences of images of a folder, the longest first.

    Args: fps: Frame rate of their numbers; none given: that of OpenFace's CSV beside the folder.

    Raises: MediaError: ``no-video``, ``no-rate``, ``unreadable``, or ``damaged`` (the first image).
    """
    folder = Path(folder)
    sequences = list_images(folder)
    if not sequences:
        raise MediaError("no-video", folder, "a folder without images (bmp, jpg, png)")
    rate = fps or _openface_rate(folder)
    if rate is None:
        remedy = "give their frame rate: --image_fps, or a column fps in the manifest"
        raise MediaError("no-rate", folder, f"images have no times; {remedy}")
    sequences.sort(key=lambda sequence: -len(sequence.paths))
    return [ImageReader(sequence, rate) for sequence in sequences]


def read_image(path: Path) -> np.ndarray:
    """Read one image as (H, W, 3) uint8 RGB.

    Raises: MediaError: ``damaged``: it is gone, breaks off, is corrupt or no image; it is named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError("damaged", path, f"this image cannot be read ({error.strerror})") from None
    is_jpeg = data.startswith(_JPEG_START)
    whole = not is_jpeg or _JPEG_END in data[-_TRAILER_BYTES:]
    if is_jpeg and whole:
        try:  # at an eighth of its size, for OpenCV paints over what is corrupt
            simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
        except ValueError as error:
            if _CORRUPT.match(str(error)):
                raise MediaError("damaged", path, f"this image is damaged ({error})") from None
    if fault := _png_fault(data):  # of which libpng would tell the terminal, in its own words
        raise MediaError("damaged", path, f"this image {fault} ({len(data)} bytes)")
    pixels = None
    if data and whole:
        logging = cv2.utils.logging
        before = logging.setLogLevel(logging.LOG_LEVEL_SILENT)  # or it tells the terminal what ends
        try:
            pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
        finally:
            logging.setLogLevel(before)
    if pixels is None:
        other = "is no image, or only a part of one"
        what = "breaks off" if data and not whole else "is empty" if not data else other
        raise MediaError("damaged", path, f"this image {what} ({len(data)} bytes)")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _png_fault(data: bytes) -> str:
    """What is wrong with the chunks of a PNG that its picture is in; empty: nothing, or no PNG.

    Source: W3C, Portable Network Graphics, sections 5.3 (layout) and 5.4 (critical chunks).
    """
    place = len(_PNG_START)
    while data.startswith(_PNG_START):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        if end > len(data):
            return "breaks off"
        told = int.from_bytes(data[end - 4 : end], "big")
        if kind[:1].isupper() and zlib.crc32(data[place + 4 : end - 4]) != told:
            return f"is damaged (checksum of {kind.decode('ascii', 'replace')})"
        if kind == b"IEND":
            break
        place = end
    return ""


def _sequence(folder: Path, before: str, group: dict[int, str]) -> ImageFiles:
    """Number the frames of one group from 0."""
    numbers = sorted(group)
    base = min(numbers[0], 1)
    if numbers[0] - base > len(numbers) and not _OPENFACE.fullmatch(before):
        base = numbers[0]
    if numbers[-1] - base > _MOST_GAPS * len(numbers) + 1000:
        found = f"{len(numbers)} images, {numbers[0]}..{numbers[-1]}"
        raise MediaError("unreadable", folder, f"its numbers do not count frames ({found})")
    return ImageFiles(
        folder=folder,
        paths=tuple(folder / group[number] for number in numbers),
        frames=tuple(number - base for number in numbers),
    )


def _openface_rate(folder: Path) -> float | None:
    """The rate by the columns frame and timestamp of ``<name>.csv`` beside ``<name>_aligned``."""
    path = folder.with_name(f"{folder.name.removesuffix(_OPENFACE_FOLDER)}.csv")
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
