"""From the frames a recording has to the frames a constant rate needs.

For: alignment by time. A dropped frame is filled with its nearest neighbour, never shifted. Not
for: choosing the frames of a clip (``hicmae/views.py``).
"""

from __future__ import annotations

import numpy as np


def constant_rate_indices(
    timestamps: np.ndarray, fps: float, start: float | None = None, end: float | None = None
) -> np.ndarray:
    """Choose the nearest frame in time for every frame of a constant rate.

    Frame i of the result stands for the time ``start + i / fps``.

    Args:
        timestamps: (N,) seconds of every frame, ascending.
        fps: Frames per second wanted.
        start: Seconds, on the clock of the timestamps; none given: the first frame.
        end: Seconds, where the last frame ends; none given: the end of the last frame, which
            lasts as long as the median one.

    Returns: (T,) int64 indices, ascending, with repeats where frames are missing; T is the span
        times ``fps``, rounded, and at least 1.

    Raises:
        ValueError: No frames, a rate that is not positive, an empty span, or one that does not
            touch the recording.
    """
    timestamps = np.asarray(timestamps, dtype=np.float64)
    if not len(timestamps):
        raise ValueError("timestamps are empty: a recording has one frame or more")
    if not fps > 0:
        raise ValueError(f"fps = {fps} (must be positive)")
    interval = float(np.median(np.diff(timestamps))) if len(timestamps) > 1 else 1 / fps
    last = timestamps[-1] + interval
    start = float(timestamps[0]) if start is None else start
    end = last if end is None else end
    if not end > start or start >= last or end <= timestamps[0]:
        raise ValueError(
            f"span {start:.3f}..{end:.3f} s lies outside the recording's "
            f"{timestamps[0]:.3f}..{last:.3f} s, or is empty"
        )
    # The small term keeps 2.5 frames that were computed as 2.4999999 from losing one.
    count = max(1, int(np.floor((end - start) * fps + 0.5 + 1e-6)))
    wanted = start + np.arange(count) / fps
    middles = (timestamps[1:] + timestamps[:-1]) / 2
    # Stamps rounded to milliseconds make ties out of near ties: those go to the later frame.
    return np.searchsorted(middles, wanted + 1e-9, side="right").astype(np.int64)


def has_own_frame(timestamps: np.ndarray, indices: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Tell which frames of a constant rate are shown by a frame of their time.

    A frame is there for half an interval around its time; the interval is the median one. What
    lies further off was dropped by the camera or by a tool, and the nearest frame stands in.

    Args:
        timestamps: (N,) seconds of every frame, ascending.
        indices: (T,) from ``constant_rate_indices``.
        wanted: (T,) seconds for which they were chosen.

    Returns: (T,) bool.
    """
    if len(timestamps) < 2:
        return np.ones(len(indices), dtype=bool)
    interval = float(np.median(np.diff(timestamps)))
    # A quarter more, since stamps are rounded and rates vary a little.
    return np.abs(timestamps[indices] - wanted) <= 0.75 * interval
