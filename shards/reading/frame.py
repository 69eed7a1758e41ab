"""One image of one sample, found through the index.

For: pictures of reports and receipts. Not for: clips (``shards/random_access.py``).
"""

from __future__ import annotations

import numpy as np

from shards.index import Index
from shards.reading.files import ShardFiles
from shards.reading.images import decode_frames
from shards.schema import SampleInfo


def read_frame(
    index: Index, files: ShardFiles, row: int, info: SampleInfo, frame: int
) -> np.ndarray:
    """Read one image.

    Args:
        index: Of the folder.
        files: Of the same.
        row: Position of the sample in the index.
        info: Its json.
        frame: Number of the image within the sample.

    Returns: uint8 (H, W, 3), RGB.
    Raises: ClipError: It cannot be read.
    """
    shard, offset = index.table["shard"].iloc[row], int(index.table["mjpg_offset"].iloc[row])
    start, stop = info.frame_offsets[frame : frame + 2]
    where = f"{index.folder / shard}: sample {info.key!r}"
    jpeg = files.read(shard, offset + start, stop - start, where)
    frames = decode_frames(jpeg, (0, stop - start), np.array([0]), where)
    return np.asarray(frames[0], dtype=np.uint8)
