"""The outputs of clips put together to the timeline of one track.

For: ``predict``, batch by batch. Not for: the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas

from hicmae.checkpoints.labels import Labels
from hicmae.prediction.messages import Followed, Window
from hicmae.prediction.results import Track


class Collected:
    """One track while its windows come in.

    Args:
        followed: What is known of it before.
        labels: What the outputs stand for.
        kinds: What the network goes by, the first being the one that counts.
    """

    def __init__(self, followed: Followed, labels: Labels, kinds: Sequence[str]) -> None:
        self._followed, self._labels, self._kinds = followed, labels, kinds
        windows, outputs = followed.num_windows, len(labels.names)
        self._spans = np.zeros((windows, 2))
        self._num_clips = np.zeros(windows, dtype=np.int64)
        self._sums = {kind: np.zeros((windows, 2, outputs)) for kind in kinds}
        self._added = np.zeros(windows, dtype=np.int64)
        self._thumbnails: list[tuple[float, bytes]] = []

    def begin(self, window: Window) -> None:
        """Take what is known of a window before the network has seen it."""
        span = window.start_seconds, window.end_seconds
        self._spans[window.number] = span
        self._num_clips[window.number] = len(window.clips)
        if window.thumbnail:
            self._thumbnails.append((sum(span) / 2, window.thumbnail))

    def add(self, number: int, outputs: Mapping[str, np.ndarray]) -> None:
        """Take the outputs (2, C) of one clip of a window: values and logits, by kind."""
        for kind, values in outputs.items():
            self._sums[kind][number] += values
        self._added[number] += 1

    def track(self) -> Track:
        """The timeline, when every clip has come in."""
        assert (self._added == self._num_clips).all(), "every clip is seen once"
        assert (self._num_clips > 0).all(), "every window that was announced has come"
        followed, counts = self._followed, self._num_clips[:, None, None]
        means = {kind: sums / counts for kind, sums in self._sums.items()}
        first = means[self._kinds[0]]
        return Track(
            name=followed.name,
            labels=self._labels,
            start_seconds=followed.start_seconds,
            end_seconds=followed.end_seconds,
            spans=self._spans,
            values=first[:, 0],
            logits=first[:, 1],
            by_modality={kind: mean[:, 0] for kind, mean in means.items()},
            boxes=_boxes(followed),
            thumbnails=tuple(self._thumbnails),
            coverage=followed.coverage,
        )


def _boxes(followed: Followed) -> pandas.DataFrame:
    """One row a frame."""
    count = len(followed.boxes)
    times = followed.start_seconds + np.arange(count) / followed.fps
    table = pandas.DataFrame({"seconds": times.astype(np.float32)})
    for number, name in enumerate(("x0", "y0", "x1", "y1")):
        table[name] = followed.boxes[:, number]
    angles = followed.angles
    table["angle"] = np.zeros(count, dtype=np.float32) if angles is None else angles
    table["found_by"] = pandas.Categorical(followed.found_by.astype(object))
    return table
