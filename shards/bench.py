"""``hicmae bench loader``: clips a second of both readers of shards, and of reading without shards.

All in the same run, since machines differ and are shared. What benches of other verbs read is here
too: videos at hand, or shards of synthetic faces.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import soundfile
from rich.console import Console

from hicmae.bench import figures_table, write_figures
from hicmae.media.crops import encode_jpeg
from hicmae.media.sound import read_sound
from hicmae.media.video import open_video
from hicmae.processes import check_workers, num_cores
from hicmae.settings import InputConfig
from hicmae.views import sound_span, train_indices
from shards.building.writer import ShardWriter
from shards.index import Index, read_index, write_index
from shards.schema import Digests, FaceInfo, SampleInfo, SourceFile

if TYPE_CHECKING:
    from shards.reading.order import BatchSpeakers
    from shards.reading.streaming import ClipStream

_SAMPLE_SECONDS = 8.0
_FPS, _SIDE, _RATE = 25, 160, 16000
_REPOSITORY = Path(__file__).resolve().parent.parent
_PUBLISHED_BATCH = 160
_NOTE = (
    "A clip is {num_frames} frames at stride {frame_stride} and {clip_seconds:.2f} s of sound. "
    "Samples are {mean_sample_seconds:.1f} s long, an image is {mean_frame_bytes:.0f} bytes. "
    "From shards come uint8 frames and int16 sound (crop, normalisation and filter bank run on the "
    "training device), every byte of a sample checked; from raw video, normalised frames and a "
    "filter bank, made on the CPU. CPU ms/clip is of the processes that read, and counts no "
    "waiting."
)


def bench_loader(
    *,
    shards: Path | None = None,
    media: Path | None = None,
    seconds: float = 5.0,
    workers: tuple[int, ...] = (0, 1, 2),
    batch_size: int = 8,
    split: str = "all",
    cold: bool = False,
    json: Path | None = None,
) -> dict[str, Any]:
    """Measure how many clips a second are read, and print a table.

    Every process is held to one thread, so that a process is a core. ``0`` workers reads in the
    measuring process itself.

    Args:
        shards: A folder of shards; none given: a temporary one of synthetic 160-pixel faces.
        media: A video, or a folder of some, to read without shards for comparison; none given:
            ``$HICMAE_CLIPS_DIR/talking/vox_*.mp4`` (by default ``../shared/clips``) if it exists.
        seconds: How long to measure each line.
        workers: Numbers of loader processes to try.
        batch_size: Clips of a batch.
        split: Split of the shards to read.
        cold: Have the system forget what it holds of the shards before each line, as if they were
            read for the first time. What is read twice within a line is still held.
        json: File for the figures.

    Returns: The figures. ``clips_per_second``: the stream with one worker, or the first number of
        workers if one is not among them; ``raw_clips_per_second`` and ``ratio`` (over it) where
        there is raw media; ``two_workers_over_one`` where both are measured;
        ``cpu_milliseconds_per_clip``, of the same stream; ``growth_megabytes`` (of the memory of
        the process while it was measured) where 0 workers are;
        ``random_access_clips_per_second``; ``speakers`` and ``speakers_permuted``, of a batch of
        ``speakers_batch_size`` as published, where they are known; ``lines``: everything in the
        table.

    Raises:
        ValueError: A number is out of range, or the shards cannot be read.
    """
    from torch.utils.data import DataLoader

    from shards.reading.random_access import ShardDataset
    from shards.sample import collate

    if seconds <= 0 or batch_size < 1 or not workers or min(workers) < 0:
        raise ValueError(
            f"seconds = {seconds}, batch_size = {batch_size}, workers = {workers} (seconds must "
            "be positive, batch_size 1 or more, and one or more numbers of workers 0 or more)"
        )
    check_workers(max(workers))
    files = raw_files(media)
    with tempfile.TemporaryDirectory(prefix="hicmae-bench-") as scratch, _one_thread():
        index = None if shards is None else read_index(shards)
        wavs = _write_wavs(files, Path(scratch))  # what cannot be read is told before any work
        if index is None:
            folder = Path(scratch) / "shards"
            write_bench_shards(folder)
            index = read_index(folder)
        input = replace(InputConfig(), fps=float(index.table["fps"].iloc[0]))
        lines = []
        speakers = _stream(index, input, _PUBLISHED_BATCH, split).speakers()
        for count in workers:
            if cold:
                _forget(index)
            stream = _stream(index, input, batch_size, split)
            batches = _clips_of(DataLoader(stream, batch_size=None, num_workers=count))
            lines.append(_line("stream", count, batches, seconds, index))
            batches.close()  # ends its processes
        if cold:
            _forget(index)
        rows = index.table if split == "all" else index.table[index.table["split"] == split]
        views = ShardDataset(
            index, input=input, rows=rows, require_picture=False, require_sound=False
        )
        loader = DataLoader(views, batch_size=batch_size, shuffle=True, collate_fn=collate)
        lines.append(_line("random access", 0, _clips_of(loader), seconds, index))
        if files:
            clips = _raw_clips(files, wavs, input)
            lines.append(_line("raw video", 0, clips, seconds, None))
        figures = _figures(lines, index, input, len(files), speakers)
    _print(figures)
    write_figures(figures, json)
    return figures


def write_bench_shards(folder: Path, num_samples: int = 48) -> None:
    """Write shards of noisy synthetic faces, 8 s a sample and 16 samples a shard, to a new folder.

    An image takes 4.98 KB and about as long to decode as those that ``hicmae shards build`` makes
    of VoxCeleb2's videos, 4.87 KB on average of 830: 120 and 116 µs, measured by turns.
    Labels ``turn`` (even, odd) and ``fold`` (1 of the first half, 2 of the other) say nothing
    of them.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    # Encoding takes longest; the cost of reading is in bytes and blocks, not in new faces.
    jpegs = [
        encode_jpeg(_face(rng, phase), quality=90, chroma="420")
        for phase in np.linspace(0, 2 * np.pi, 50, endpoint=False)
    ]
    num_frames = round(_SAMPLE_SECONDS * _FPS)
    with ShardWriter(folder, samples_per_shard=16) as writer:
        for number in range(num_samples):
            images = [jpegs[(number + frame) % len(jpegs)] for frame in range(num_frames)]
            mjpg, wav = b"".join(images), _wav(rng)
            info = SampleInfo(
                key=f"bench/{number:05d}",
                source=SourceFile(path="synthetic", sha256="0" * 64, bytes=0),
                start_seconds=0.0,
                end_seconds=_SAMPLE_SECONDS,
                fps=float(_FPS),
                num_frames=num_frames,
                frame_offsets=tuple(np.cumsum([0, *map(len, images)]).tolist()),
                face_size=_SIDE,
                sound="present",
                num_samples=round(_SAMPLE_SECONDS * _RATE),
                padded_samples=0,
                sample_rate=_RATE,
                labels={
                    "turn": "odd" if number % 2 else "even",
                    "fold": 1 + (2 * number >= num_samples),
                },
                faces=FaceInfo(
                    policy="none", detector="none", coverage=1.0, found_by=(("given", num_frames),)
                ),
                digests=Digests(
                    mjpg=hashlib.sha256(mjpg).hexdigest(), wav=hashlib.sha256(wav).hexdigest()
                ),
            )
            writer.add(info, mjpg, wav)
    write_index(folder, writer.rows, {"config": {}, "shards": writer.shards})


def raw_files(media: Path | None) -> list[Path]:
    """The videos to compare with.

    Args: media: A file or a folder; None: the talking VoxCeleb-style clips of ``HICMAE_CLIPS_DIR``
        (by default ``../shared/clips`` beside the repository), if there.

    Raises:
        FileNotFoundError: ``media`` does not exist.
        ValueError: It is a folder without mp4 files.
    """
    if media is None:
        clips = Path(os.environ.get("HICMAE_CLIPS_DIR") or _REPOSITORY.parent / "shared/clips")
        return sorted(clips.glob("talking/vox_*.mp4"))
    if not media.exists():
        raise FileNotFoundError(f"{media}: no such video or folder of videos")
    files = sorted(media.glob("*.mp4")) if media.is_dir() else [media]
    if not files:
        raise ValueError(f"{media}: no mp4 file in this folder")
    return files


def _stream(index: Index, input: InputConfig, batch_size: int, split: str) -> ClipStream:
    from shards.reading.settings import DataConfig
    from shards.reading.streaming import ClipStream

    data = DataConfig(
        shards=str(index.folder),
        batch_size=batch_size,
        split=split,
        picture="optional",
        sound="optional",
    )
    return ClipStream(input, data, seed=0)


def _clips_of(loader: Iterable[dict[str, Any]]) -> Generator[int, None, None]:
    """Clips of each batch, for ever."""
    while True:
        for batch in loader:
            yield len(batch["keys"])


def _forget(index: Index) -> None:
    """Have the system drop what it holds of the shards."""
    for name in index.shards:
        with (index.folder / name).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _line(
    what: str, workers: int, batches: Iterator[int], seconds: float, index: Index | None
) -> dict[str, Any]:
    """Measure a reader, from the end of one batch to the end of another: a line of the table.

    The processor's time is of this process, or of its loader processes if it has some.
    """
    for _ in range(4):  # caches and worker processes are warm after these
        next(batches)
    memory, cpu, start, num_clips = _megabytes(), _cpu_seconds(), time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds or not num_clips:
        num_clips += next(batches)
    rate, cpu, size = num_clips / elapsed, _cpu_seconds() - cpu, None
    if index is not None and what == "stream":  # which reads all bytes of its samples
        clip = sum(shard["bytes"] for shard in index.info["shards"]) / len(index.table) / 1e6
        size = clip * rate
    return {
        "what": what,
        "workers": workers,
        "clips_per_second": rate,
        "milliseconds_per_clip": 1000 / rate,
        "cpu_milliseconds_per_clip": 1000 * cpu / num_clips,
        "growth_megabytes": None if workers else _megabytes() - memory,
        "megabytes_per_second": size,
    }


def _cpu_seconds() -> float:
    """Of the processor, taken by the child processes of this one, or by this one if it has none."""
    children = [process.pid for process in multiprocessing.active_children()]
    if not children:
        return time.process_time()
    ticks = 0
    for child in children:
        # Source: proc_pid_stat(5); utime and stime are fields 14 and 15, the name is in brackets.
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _megabytes() -> float:
    """Memory that is this process's own and in use, 1e6 bytes (Linux)."""
    fields = Path("/proc/self/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _figures(
    lines: list[dict[str, Any]],
    index: Index,
    input: InputConfig,
    num_files: int,
    speakers: BatchSpeakers | None,
) -> dict[str, Any]:
    table = index.table
    num_frames = table["num_frames"][table["mjpg_length"] > 0].sum()
    rates = {line["what"]: line["clips_per_second"] for line in lines}
    streams = {line["workers"]: line for line in lines if line["what"] == "stream"}
    main = streams.get(1, lines[0])
    stream = main["clips_per_second"]
    return {
        "clips_per_second": stream,
        "cpu_milliseconds_per_clip": main["cpu_milliseconds_per_clip"],
        "growth_megabytes": streams.get(0, {}).get("growth_megabytes"),
        "two_workers_over_one": streams[2]["clips_per_second"] / streams[1]["clips_per_second"]
        if {1, 2} <= streams.keys()
        else None,
        "random_access_clips_per_second": rates["random access"],
        "raw_clips_per_second": rates.get("raw video"),
        "ratio": stream / rates["raw video"] if "raw video" in rates else None,
        "num_raw_files": num_files,
        "lines": lines,
        "num_frames": input.num_frames,
        "frame_stride": input.frame_stride,
        "clip_seconds": input.clip_seconds,
        "mean_sample_seconds": float(table["seconds"].mean()),
        "mean_frame_bytes": float(table["mjpg_length"].sum() / max(1, num_frames)),
        "num_cores": num_cores(),
        "load_average": os.getloadavg()[0],
        "speakers": speakers and speakers.found,
        "speakers_permuted": speakers and speakers.permuted,
        "speakers_batch_size": speakers and speakers.batch_size,
    }


def _print(figures: dict[str, Any]) -> None:
    heads = ("reader", "loader processes", "clips/s", "ms/clip", "CPU ms/clip", "MB/s")
    rows = [
        (
            line["what"],
            str(line["workers"] or "none, in this process"),
            f"{line['clips_per_second']:.0f}",
            f"{line['milliseconds_per_clip']:.2f}",
            f"{line['cpu_milliseconds_per_clip']:.2f}",
            "" if (size := line["megabytes_per_second"]) is None else f"{size:.0f}",
        )
        for line in figures["lines"]
    ]
    console = Console()
    console.print(figures_table("Loading clips", heads, rows))
    console.print(_NOTE.format(**figures), highlight=False)
    if figures["speakers"] is not None:
        console.print(
            f"A batch of {figures['speakers_batch_size']} holds {figures['speakers']:.1f} "
            f"speakers, a permutation's {figures['speakers_permuted']:.1f}."
        )
    if figures["growth_megabytes"] is not None:
        console.print(f"Reading in this process, it grew by {figures['growth_megabytes']:.1f} MB.")
    if figures["two_workers_over_one"] is not None:
        console.print(
            f"Two workers give {figures['two_workers_over_one']:.2f} times the clips of one, on "
            f"{figures['num_cores']} cores."
        )
    if figures["ratio"] is not None:
        console.print(
            f"The stream gives {figures['ratio']:.1f} times the clips of raw video "
            f"({figures['num_raw_files']} files)."
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Hold torch and OpenCV to one thread, so that a process is a core."""
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _write_wavs(files: Sequence[Path], folder: Path) -> list[Path]:
    """The sound of videos as the reference code wants it, a file each; that is not measured."""
    wavs, rate = [], InputConfig().sample_rate
    for number, file in enumerate(files):
        open_video(file).close()  # says what is wrong with one that decord cannot read
        wavs.append(folder / f"{number}.wav")
        soundfile.write(
            wavs[-1], read_sound(file, sample_rate=rate).samples, rate, subtype="PCM_16"
        )
    return wavs


def _raw_clips(files: Sequence[Path], wavs: Sequence[Path], input: InputConfig) -> Iterator[int]:
    """Load clips as one does without shards, for ever: yields 1 for each. decord decodes the video
    itself (where it has no wheels, PyAV); decoding, transforms and filter bank run on one core.

    Args: wavs: The sound of each file, see ``_write_wavs``.
    """
    import torch
    import torchaudio

    mean = np.array(input.image_mean, dtype=np.float32)
    std = np.array(input.image_std, dtype=np.float32)
    rng = np.random.default_rng(0)
    for file, wav in itertools.cycle(zip(files, wavs, strict=True)):
        indices, found = _raw_frames(file, input, rng.random())
        frames = np.stack([_cropped(frame, input.image_size) for frame in found])
        pixels = torch.from_numpy((frames.astype(np.float32) / 255 - mean) / std)
        start, stop = sound_span(int(indices[0]), input)
        # As much as of a sample of the shards, whose frame rate need not be that of the video.
        length = stop - start
        start = max(0, min(start, soundfile.info(wav).frames - length))
        samples, _ = soundfile.read(
            wav, start=start, frames=length, dtype="float32", fill_value=0.0
        )
        fbank = torchaudio.compliance.kaldi.fbank(
            torch.from_numpy(samples - samples.mean())[None],
            htk_compat=True,
            sample_frequency=input.sample_rate,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=input.mel_bins,
            dither=0.0,
            frame_shift=10,
        )
        fbank = (fbank - input.fbank_mean) / (2 * input.fbank_std)
        assert pixels.isfinite().all(), file
        assert fbank.isfinite().all(), file
        yield 1


def _raw_frames(
    file: Path, input: InputConfig, position: float
) -> tuple[np.ndarray, Iterable[np.ndarray]]:
    """Which frames a clip at this place has, and these, (H, W, 3) uint8 each."""
    try:
        import decord  # not before PyAV, see hicmae/media/__init__.py
    except ModuleNotFoundError:
        with open_video(file) as reader:
            indices = train_indices(len(reader), input, position)
            return indices, list(reader.frames(indices))
    video = decord.VideoReader(str(file), num_threads=1)
    indices = train_indices(len(video), input, position)
    return indices, video.get_batch(indices).asnumpy()


def _cropped(frame: np.ndarray, side: int) -> np.ndarray:
    """The face of a VoxCeleb2 frame (Source: HiCMAE's fixed crop), else the middle, resized."""
    height, width = frame.shape[:2]
    if (height, width) == (224, 224) and side == 160:
        return frame[:160, 32:192]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return cv2.resize(frame[top : top + short, left : left + short], (side, side))


def _face(rng: np.random.Generator, phase: float) -> np.ndarray:
    """A head with eyes and a moving mouth before a textured wall, uint8 RGB."""
    rows, columns = np.mgrid[:_SIDE, :_SIDE].astype(np.float32) / _SIDE
    wall = 90 + 40 * np.sin(9 * columns + 4 * rows) + 20 * np.cos(17 * rows)
    image = np.stack([wall, wall * 0.9 + 10, wall * 0.8 + 30], axis=-1).astype(np.float32)
    centre = (80 + round(3 * np.sin(phase)), 84)
    cv2.ellipse(image, centre, (50, 66), 0, 0, 360, (205, 160, 135), -1, cv2.LINE_AA)
    for side in (-20, 20):
        eye = (centre[0] + side, 68)
        cv2.ellipse(image, eye, (9, 5), 0, 0, 360, (240, 240, 240), -1, cv2.LINE_AA)
        cv2.circle(image, eye, 4, (50, 35, 30), -1, cv2.LINE_AA)
        cv2.line(image, (eye[0] - 9, 55), (eye[0] + 9, 54), (70, 45, 30), 3, cv2.LINE_AA)
    mouth = (centre[0], 116)
    opening = 4 + round(5 * (1 + np.sin(3 * phase)))
    cv2.ellipse(image, mouth, (18, opening), 0, 0, 360, (120, 40, 50), -1, cv2.LINE_AA)
    image *= (1.15 - 0.4 * columns)[..., None]  # light from the left
    image = cv2.GaussianBlur(image, (0, 0), 0.6)  # as sharp as a video that was compressed
    grain = cv2.GaussianBlur(rng.normal(0, 1, image.shape).astype(np.float32), (0, 0), 1.2)
    return np.clip(image + 7 * grain, 0, 255).astype(np.uint8)


def _wav(rng: np.random.Generator) -> bytes:
    """A buzz with noise, 16-bit mono."""
    times = np.arange(round(_SAMPLE_SECONDS * _RATE)) / _RATE
    voice = np.sin(2 * np.pi * 130 * times) + 0.5 * np.sin(2 * np.pi * 1040 * times)
    file = io.BytesIO()
    soundfile.write(
        file, 0.2 * voice + 0.02 * rng.normal(size=len(times)), _RATE, "PCM_16", format="WAV"
    )
    return file.getvalue()
