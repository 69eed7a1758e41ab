"""The same person after a cut: faces of one recording joined by what they look like.

Off unless asked for. Faces are compared within one recording and while it is read; nothing of what
tells one from another is kept or written, and nobody is named. An embedder of faces is one class
that registers itself, here or in a package of yours (``hicmae/registry.py``).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import platformdirs

from hicmae.download import OFFLINE_VARIABLE, DownloadError, fetch, is_offline
from hicmae.files import file_sha256
from hicmae.media.faces import EMBEDDERS, Face, FaceEmbedder
from hicmae.media.tracking import FaceTrack

FILE_NAME = "face_recognition_sface_2021dec.onnx"
# Source of the digest: the pointer of the file in OpenCV's model zoo at commit 966be4c.
SHA256 = "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79"
SOURCE = f"https://github.com/opencv/opencv_zoo/raw/main/models/face_recognition_sface/{FILE_NAME}"
VARIABLE = "HICMAE_SFACE"


@dataclass(frozen=True, kw_only=True)
class SFaceSettings:
    """``file``: the network; none given: ``HICMAE_SFACE``, the user's cache, else fetched."""

    file: Path | None = None


@EMBEDDERS.register("sface", settings=SFaceSettings)
class SFace:
    """OpenCV's SFace (39 MB). Its real weights were not at hand: tried with others in their place,
    and what joins faces with another network (dlib's) on real people.

    Source: Y. Zhong et al., "SFace: Sigmoid-Constrained Hypersphere Loss", 2021; the likeness from
    which two faces are one person's is that of OpenCV's model zoo.

    Raises: FileNotFoundError, ValueError: as ``get_sface``.
    """

    name, same = "sface", 0.363

    def __init__(self, settings: SFaceSettings, *, offline: bool = False) -> None:
        import cv2

        file = get_sface(settings.file, offline=offline)
        self._network = cv2.FaceRecognizerSF.create(str(file), "")

    def embed(self, frame: np.ndarray, face: Face) -> np.ndarray:
        """What a face in (H, W, 3) uint8 RGB looks like: (128,), of length 1."""
        import cv2

        assert face.landmarks is not None, "FaceConfig asks for a detector that finds them"
        row = np.concatenate([face.box[:2], face.box[2:] - face.box[:2], face.landmarks.ravel()])
        row = row[None].astype(np.float32)  # OpenCV takes the bytes for that, whatever they are
        image = self._network.alignCrop(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), row)
        vector = self._network.feature(image).ravel().astype(np.float64)
        return np.asarray(vector / np.linalg.norm(vector))


def get_sface(file: Path | None = None, *, offline: bool = False) -> Path:
    """Find the network's file, or fetch it into the user's cache.

    Raises:
        FileNotFoundError: It is not there, and must not or cannot be fetched.
        ValueError: Its digest is not the known one.
    """
    named = file or os.environ.get(VARIABLE)
    path = Path(named) if named else Path(platformdirs.user_cache_dir("hicmae")) / FILE_NAME
    if not path.is_file():
        why = ""
        if not (named or offline or is_offline()):
            try:
                return fetch(SOURCE, path, sha256=SHA256)
            except (DownloadError, OSError) as failure:
                why = f" ({failure})"
        raise FileNotFoundError(
            f"{path}: SFace's network is not there; let it be fetched (without --offline and "
            f"{OFFLINE_VARIABLE}), put the file from {SOURCE} there, name it in {VARIABLE}, or "
            f"leave --identity out{why}"
        )
    if (digest := file_sha256(path)) != SHA256:
        raise ValueError(
            f"{path}: not SFace's network: sha256 {digest[:16]}…, expected {SHA256[:16]}…; get it "
            f"from {SOURCE}"
        )
    return path


@functools.cache
def shared_embedder(identity: str, *, offline: bool) -> FaceEmbedder | None:
    """An embedder by its name, one for all recordings of a process; None for ``none``.

    Raises: FileNotFoundError, ValueError: its file is missing, or another one.
    """
    if identity == "none":
        return None
    entry = EMBEDDERS[identity]
    return entry.make(entry.configure({}, f"face embedder {identity}"), offline=offline)


def same_people(
    spans: Sequence[tuple[int, int]], vectors: Sequence[np.ndarray], same: float
) -> list[int]:
    """Whose each face is: the person, among those not seen at the same time, it is most like.

    Args:
        spans: First frame and the one behind the last, of each face.
        vectors: What each looks like, of length 1.
        same: Cosine to the mean of a person's faces from which a face is that person's.

    Returns: a number for each face, in the order in which people appear.
    """
    people: list[list[int]] = []
    numbers = [0] * len(spans)
    for face in sorted(range(len(spans)), key=lambda face: spans[face]):
        begin, end = spans[face]
        alike = []
        for person in people:
            mean = np.mean([vectors[one] for one in person], axis=0)
            beside = any(spans[one][0] < end and begin < spans[one][1] for one in person)
            cosine = float(mean @ vectors[face] / max(float(np.linalg.norm(mean)), 1e-9))
            alike.append(-1.0 if beside else cosine)
        best = int(np.argmax(alike)) if alike else 0
        if not alike or alike[best] < same:
            best = len(people)
            people.append([])
        people[best].append(face)
        numbers[face] = best
    return numbers


def joined(tracks: Sequence[FaceTrack], people: Sequence[int]) -> list[FaceTrack]:
    """One track a person, ``absent`` where it is not seen and its box stays where it was."""
    return [
        _join([track for track, one in zip(tracks, people, strict=True) if one == person])
        for person in sorted(set(people))
    ]


def _join(parts: list[FaceTrack]) -> FaceTrack:
    if len(parts) == 1:
        return parts[0]
    parts = sorted(parts, key=lambda part: part.first)
    first = parts[0].first
    places = np.zeros(parts[-1].first + len(parts[-1].boxes) - first, dtype=np.int64)
    seen, begin = np.zeros(len(places), dtype=bool), 0
    for part in parts:
        at = slice(part.first - first, part.first - first + len(part.boxes))
        places[at.start :] = begin + len(part.boxes) - 1  # held until the next part
        places[at] = begin + np.arange(len(part.boxes))
        seen[at], begin = True, begin + len(part.boxes)

    def all_of(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    lengths = [len(part.boxes) for part in parts]
    whole = replace(
        parts[0],
        boxes=np.concatenate([part.boxes for part in parts]),
        found_by=np.concatenate([part.found_by for part in parts]),
        angles=all_of("angles"),
        marks=all_of("marks"),
        coverage=float(np.average([part.coverage for part in parts], weights=lengths)),
    ).take(places)
    return replace(whole, found_by=np.where(seen, whole.found_by, "absent"))
