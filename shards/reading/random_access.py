"""Reading samples in any order through the index: the data of fine-tuning and evaluation.

Folds are filters on the index and never copies of the data. The first time that a sample is read,
it is read whole and all of it is checked (``whole_sample.py``), once for all processes of a loader;
from then on only the bytes of a clip, which are not checked again: its json, the images from its
first to its last frame, and the span of its sound.

Deviation: the reference ends on a bad sample or silently reads another in its place; here it is
an error that names it, or, in training and if asked for, left out and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas
import torch

from hicmae.settings import InputConfig
from hicmae.views import sound_span, test_views, train_indices
from shards.index import Index
from shards.reading.files import Row, ShardFiles, ShardFolder
from shards.reading.whole_sample import parse_row_json, read_sample
from shards.sample import cut_clip, uniform_draw
from shards.schema import ClipError, SampleInfo, Skipped, needed_members

# Columns of rows that are instants of samples: name of the sample (``key`` is the instant's), and
# the frames of it that a view is taken from.
SAMPLE, FIRST, WINDOW = "sample_key", "context_first", "context_frames"
# Room for what stands before the samples in a wav: RIFF, fmt, perhaps LIST, data.
_WAV_HEAD = 512


class ShardDataset(torch.utils.data.Dataset[dict[str, Any] | Skipped]):
    """Views of the samples of a folder; batches are made by ``sample.collate``.

    An item is what ``ClipBytes.decode`` gives, with "sample", the position of the sample in
    ``rows``, and "view", the number of the view in the sample.

    Args:
        source: The index of a folder; or what ``files.open_folder`` gives for one elsewhere.
        rows: The rows of the index to read, in any order; none given: all. With the columns
            ``SAMPLE``, ``FIRST`` and ``WINDOW`` each is a span of a sample.
        views: ``train``: one clip a sample, at a position drawn anew for each epoch; a number:
            so many views a sample, spread over its length, one after another.
        modalities: What is read: ``audio-video``, ``video`` or ``audio``; a sample without the
            one that is read alone is bad.
        require_picture: Whether one without a picture is bad where both are read; else the item
            has no "frames", and "seen" says so.
        require_sound: Whether one without sound is; else its waveform is zeros, its
            ``num_samples`` 0, and "heard" says so.
        on_bad: ``raise``, or ``skip``: the item is then a ``Skipped``, which ``collate`` counts.
        seed: Positions of the training clips depend on it, the epoch and the row of the index.

    Attributes: rows: One row an own sample, numbered from 0.

    Raises: ValueError: no rows; another frame rate.
    """

    def __init__(
        self,
        source: Index | ShardFolder,
        *,
        input: InputConfig,
        rows: pandas.DataFrame | None = None,
        views: Literal["train"] | int = "train",
        modalities: str = "audio-video",
        require_picture: bool = True,
        require_sound: bool = True,
        on_bad: Literal["raise", "skip"] = "raise",
        seed: int = 0,
    ) -> None:
        if isinstance(source, Index):
            folder = source.folder.resolve()
            index, self._files = source, ShardFiles(folder, name=str(source.folder))
        else:
            index, self._files, folder = source.index, source.files, source.files.folder
        rows = index.table if rows is None else rows
        if rows.empty:
            raise ValueError(f"{folder}: no sample left to read (0 of {len(index.table)} rows)")
        if not (views == "train" or (isinstance(views, int) and views >= 1)):
            raise ValueError(f"views = {views!r} (allowed: 'train', or a number from 1)")
        check_rate(folder, rows, input)
        self.folder, self.input, self.views, self.seed = folder, input, views, seed
        self.modalities, self.on_bad = modalities, on_bad
        self._needed = needed_members(modalities, picture=require_picture, sound=require_sound)
        self.rows = rows.reset_index(drop=True)
        self.num_views = 1 if views == "train" else int(views)
        # Rows are numbered by the index, so that a sample's clips do not depend on the fold.
        self._numbers = rows.index.to_numpy()
        of_samples = SAMPLE in self.rows
        names = self.rows[SAMPLE] if of_samples else self.rows["key"]
        self._records = Row.rows_of(self.rows.assign(key=names), self._files.name)
        self._spans = self.rows[[FIRST, WINDOW]].to_numpy() if of_samples else None
        self._places = pandas.factorize(names)[0]  # rows of one sample share its check
        # In shared memory, so that persistent workers hear of a new epoch, and all processes of
        # what one of them has checked.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._is_checked = torch.zeros(len(rows), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self._records) * self.num_views

    def __getitem__(self, number: int) -> dict[str, Any] | Skipped:
        """One view.

        Raises: ClipError: the sample cannot be read, and bad ones are not to be skipped.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"item {number} of {len(self)}")
        sample, view = divmod(number, self.num_views)
        try:
            return self._view(sample, view)
        except ClipError as error:
            if self.on_bad == "raise":
                raise
            return Skipped(error.cause)

    def set_epoch(self, epoch: int) -> None:
        """Draw other training clips, in worker processes too."""
        self._epoch.fill_(epoch)

    def info(self, sample: int) -> SampleInfo:
        """Read the json of the sample at a position in ``rows``.

        Raises: ClipError: it cannot be read, or is not what the index says.
        """
        row = self._records[sample]
        return parse_row_json(self._read(row, "json", row.json_offset, row.json_length), row)

    def _view(self, sample: int, view: int) -> dict[str, Any]:
        row, read, first = self._records[sample], self.modalities, 0
        mjpg: bytes | memoryview | None = None
        wav: bytes | memoryview | None = None
        if self._is_checked[self._places[sample]]:
            info = self.info(sample)
            indices = self._indices(sample, view, info.num_frames)
            if row.wav_length > 0 and "audio" in read:
                _, stop = sound_span(int(indices[0]), self.input)
                length = min(row.wav_length, _WAV_HEAD + 2 * stop)
                wav = self._read(row, "wav", row.wav_offset, length)
            if row.mjpg_length > 0 and "video" in read:
                first = info.frame_offsets[int(indices[0])]
                last = info.frame_offsets[int(indices[-1]) + 1]
                mjpg = self._read(row, "mjpg", row.mjpg_offset + first, last - first)
        else:
            whole = read_sample(self._files, row, require=self._needed)
            info = whole.info
            mjpg = whole.mjpg if "video" in read else None
            wav = whole.wav if "audio" in read else None
            indices = self._indices(sample, view, info.num_frames)
            self._is_checked[self._places[sample]] = whole.in_place
        cut = cut_clip(info, mjpg, wav, indices, self.input, row.where, mjpg_start=first)
        return cut.decode(self.input, read) | {"sample": sample, "view": view}

    def _indices(self, sample: int, view: int, num_frames: int) -> np.ndarray:
        """Frames of a view, int64 (T,)."""
        first = 0
        if self._spans is not None:
            first, length = self._spans[sample].tolist()
            num_frames = min(length, num_frames - first)
        input = self.input
        if self.views == "train":
            draw = uniform_draw(self.seed, int(self._epoch), int(self._numbers[sample]))
            return first + train_indices(num_frames, input, draw)
        views = test_views(num_frames, input.num_frames, input.frame_stride, self.num_views)
        return first + views[view]

    def _read(self, row: Row, member: str, offset: int, length: int) -> bytes:
        return self._files.read(row.shard, offset, length, f"{row.where}: {member}")


def check_rate(folder: Path, rows: pandas.DataFrame, input: InputConfig) -> None:
    """Prove that rows of the index of a folder have the frame rate of a model.

    Raises: ValueError: the first sample that has another.
    """
    other = rows[rows["fps"] != input.fps]
    if len(other):
        raise ValueError(
            f"{folder}: sample {other['key'].iloc[0]!r} has {other['fps'].iloc[0]:g} frames a "
            f"second, the model takes {input.fps:g}; rebuild the shards at that rate"
        )
