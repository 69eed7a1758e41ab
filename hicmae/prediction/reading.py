"""The windows of a recording, as the network is shown them, one after another.

For: prediction, features, anything that runs a network over a raw recording, of a pretrained
checkpoint too. Not for: the network (``network.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from hicmae.media.preparation import Preparation
from hicmae.prediction.messages import Finished, Found, Progress, Window
from hicmae.prediction.opening import Request
from hicmae.prediction.process import DecodingProcess
from hicmae.prediction.settings import WindowConfig
from hicmae.settings import InputConfig

Tell = Callable[[Progress], None]


def read_windows(
    path: str | Path,
    *,
    input: InputConfig,
    preparation: Preparation,
    config: WindowConfig | None = None,
    modalities: str = "audio-video",
    process: DecodingProcess | None = None,
    progress: Tell | None = None,
) -> WindowStream:
    """Begin to read a recording.

    Args:
        path: A video, a sound file, or a folder of images.
        input: The network's.
        preparation: How its images are made, as ``hicmae.prediction.preparation_of`` reads it.
        config: Where the windows are; none given: one clip long, a second apart.
        modalities: What the network reads: ``audio-video``, ``video`` or ``audio``.
        process: Where it is decoded; none given: a new one, which ends with the stream.
        progress: Called with how far it is.

    Returns: the windows, and what was found in the recording.

    Raises:
        FileNotFoundError: There is no such file.
        PredictionError: It cannot be read, or does not hold what the network reads.
        ValueError: Windows that the network cannot be shown.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    config = config if config is not None else WindowConfig()
    config.layout(input)  # refuses what no recording can be asked for
    read = modalities.split("-")
    request = Request(
        path=path,
        input=input,
        preparation=config.prepared(preparation),
        config=config,
        see="video" in read,
        hear="audio" in read,
    )
    return WindowStream(request, process, progress)


class WindowStream:
    """The windows of one recording; iterate over it once. Use it as a context manager to stop
    before the end.

    Args:
        request: Which recording, and how.
        process: Where it is decoded; None: one of its own.
        progress: Called with how far it is.

    Attributes:
        found: What the recording holds: its tracks, their boxes, notes.
        finished: What its end told; None before the last window.
    """

    def __init__(
        self, request: Request, process: DecodingProcess | None, progress: Tell | None
    ) -> None:
        self.request = request
        self.finished: Finished | None = None
        self._own = DecodingProcess() if process is None else None
        self._progress = progress
        deadline = request.config.deadline_seconds
        answers = (process or self._own or DecodingProcess()).ask(
            request, path=request.path, deadline_seconds=deadline
        )
        self._messages = self._told(answers)
        try:
            found = next(self._messages)
        except BaseException:
            self.close()
            raise
        assert isinstance(found, Found)
        self.found = found

    def __enter__(self) -> WindowStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Window]:
        """The windows, in the order in which they end.

        Raises: PredictionError: the recording breaks off in a way that cannot be read.
        """
        for message in self._messages:
            if isinstance(message, Window):
                yield message
            elif isinstance(message, Finished):
                self.finished = message
        self.close()

    def close(self) -> None:
        """Stop reading."""
        self._messages.close()
        if self._own is not None:
            self._own.close()

    def _told(self, answers: Iterator[Any]) -> Generator[Any, None, None]:
        for message in answers:
            if not isinstance(message, Progress):
                yield message
            elif self._progress is not None:
                self._progress(message)
