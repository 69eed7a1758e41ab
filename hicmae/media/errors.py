"""The one error of raw media: a file that cannot be used, and the cause under which it counts."""

from __future__ import annotations

from os import PathLike, fspath

from hicmae.terminal import printable

# Cause -> what it means. Refused inputs are counted under these words; a word is never reused for
# something else, since they stand in written reports.
CAUSES = {
    "empty-file": "the file has no bytes",
    "lfs-pointer": "a Git LFS pointer stands where the recording should be",
    "unreadable": "not a recording, or its header is destroyed",
    "no-video": "there is no moving picture in it",
    "no-sound": "there is no sound in it",
    "too-short": "fewer seconds than asked for",
    "no-face": "the detector found no face",
    "no-span": "none of the spans that were asked for is in it",
    "no-boxes": "face boxes were promised and there is no file of them",
    "bad-boxes": "the file of face boxes is not one, or of another recording",
    "frame-size": "its frames are smaller than the fixed box",
    "no-rate": "images whose frame rate nobody says, or that last longer or less than their sound",
    "no-colours": "a stack of pictures whose order of colours nobody says",
    "damaged": "it opens, but frames that were asked for cannot be decoded",
    "stamps-restart": "recordings joined end to end, whose time stamps start again",
    "deadline": "decoding showed no sign of life",
    "crash": "the decoder took its process down",
}


class MediaError(ValueError):
    """A recording that cannot be used.

    Args:
        cause: A word of ``CAUSES``, under which the file is counted.
        path: The file.
        problem: What was found and, where there is one, the remedy; the rest of the line.

    Raises: ValueError: A cause outside ``CAUSES``.
    """

    def __init__(self, cause: str, path: str | PathLike[str], problem: str) -> None:
        if cause not in CAUSES:
            raise ValueError(f"cause {cause!r} is none of {', '.join(CAUSES)}")
        # File names and decoder messages may hold line breaks and control characters.
        name, found = (printable(text.strip(), " ") for text in (fspath(path), problem))
        super().__init__(f"{name}: {found}")
        self.cause = cause
        self.path = fspath(path)
        self.problem = problem

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        """Survive the way back from a worker process."""
        return type(self), (self.cause, self.path, self.problem)
