"""The functions behind ``hicmae shards build | merge | check | info | receipt | compare |
synthesize``.

What they call is imported when they run, so that their help does not wait for it.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

import rich.progress as bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hicmae.config import with_options_of
from hicmae.files import check_writable, write_json, write_text
from hicmae.media.errors import CAUSES
from hicmae.terminal import print_line
from shards.settings import BuildConfig
from shards.synthesis.settings import CorpusConfig

if TYPE_CHECKING:
    from shards.building.build import BuildProgress, BuildResult
    from shards.building.prepare import Refusal

_LINE_SECONDS = 30.0  # from one line of progress to the next, where there is no terminal
_PUBLISHED_BATCH = 160
_MOST_NAMED = 200  # files of one cause that are printed; refused.jsonl has all
_MEANINGS = CAUSES | {
    "missing-file": "a manifest names it and it is not there",
    "frame-size": "its frames are smaller than the fixed box",
    "short-face": "some of its faces are seen for less than the least length",
    "error": "something unforeseen; please report it",
}


@with_options_of(BuildConfig)
def build(
    *,
    sources: list[Path],
    out: Path,
    overwrite: bool = False,
    part: str | None = None,
    config: BuildConfig,
) -> None:
    """Build shards from videos and sound files.

    Every recording becomes a sample of face images at a constant frame rate with its sound, or of
    its sound alone, or is refused by name and cause (also in OUT/refused.jsonl). A build that was
    interrupted or killed goes on where it was when the same command is given again; until it is
    done, it is in OUT.partial. The exit status is 0 if anything was built, and 2 if nothing was or
    if more was refused than max_refused allows.

    Args:
        sources: Folders (every recording in them), manifests (CSV, .xlsx or JSON lines), or
            recordings.
        out: The folder of shards; new, or the result of an earlier build with --overwrite.
        overwrite: Replace an earlier build, and drop an unfinished one of other settings.
        part: Build one part of the recordings only, such as 2/8 for the second of eight, into a
            folder of its own; `hicmae shards merge` joins the parts.
        config: How; one option for each of its fields.

    Raises:
        ValueError: Nothing was built, or a source, folder or setting cannot be used.
    """
    from shards.building.build import NothingBuiltError, build_shards
    from shards.settings import parse_part

    console, began = Console(emoji=False), time.monotonic()
    try:
        with build_display(console) as update:
            result = build_shards(
                sources,
                out,
                config,
                overwrite=overwrite,
                part=None if part is None else parse_part(part),
                on_progress=update,
                on_warning=lambda said: print_line(console, f"warning: {said}"),
            )
    except NothingBuiltError as error:
        print_left_out(console, error.result)
        raise
    except (KeyboardInterrupt, SystemExit):  # of a signal
        print_line(console, f"{out}: unfinished; the same command goes on from here")
        raise
    print_left_out(console, result)
    took = time.monotonic() - began
    num_new = result.num_recordings - result.num_kept
    kept = f", {result.num_kept} of them by an earlier run" if result.num_kept else ""
    alone = f"{count} of sound alone, " if (count := result.num_sound_alone) else ""
    print_line(
        console,
        f"{result.num_samples} samples ({result.seconds / 3600:.2f} hours) from "
        f"{result.num_recordings} recordings{kept}, {alone}{len(result.refusals)} refused, in "
        f"{took:.0f} s ({num_new / took:.1f}/s): {result.folder}",
    )


def merge(*, parts: list[Path], out: Path, overwrite: bool = False) -> None:
    """Join the parts of a build (--part 1/8, …) into one folder of shards.

    All parts must be there, finished, and of the same recordings and settings. They are left as
    they are; on one file system their shards take no room twice.

    Args:
        parts: Folders of all parts, in any order.
        out: The folder of shards; new, or the result of an earlier build with --overwrite.
        overwrite: Replace an earlier build.
    """
    from shards.building.merge import merge_shards

    console = Console(emoji=False)
    with progress_bar(console) as bar:
        task = bar.add_task("merging", total=None, note="shards")
        counts = merge_shards(
            parts,
            out,
            overwrite=overwrite,
            on_shard=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print_line(
        console,
        f"{counts['num_samples']} samples ({counts['seconds'] / 3600:.2f} hours) from "
        f"{counts['num_recordings']} recordings in {len(parts)} parts: {out}",
    )


def check(*, folder: Path) -> int:
    """Check that shards are whole and are what their index and the schema say.

    Prints one line a problem, naming shard and sample. The exit status is 2 if there is any.

    Args:
        folder: Of the shards.
    """
    from shards.check import check_shards
    from shards.index import shards_info

    console = Console(emoji=False)
    with progress_bar(console) as bar:
        task = bar.add_task("checking", total=None, note="shards")
        problems = check_shards(
            folder, on_shard=lambda done, total: bar.update(task, completed=done, total=total)
        )
    for problem in problems:
        print(problem)
    if problems:
        print(f"{folder}: {len(problems)} problems")
        return 2
    about = shards_info(folder)
    print(
        f"OK: {folder}: {about['num_shards']} shards, {about['num_samples']} samples, "
        f"{about['num_frames']} images, {about['hours']:.2f} hours"
    )
    return 0


def info(*, folder: Path, json: Path | None = None) -> None:
    """Say what a folder of shards holds.

    Args:
        folder: Of the shards.
        json: Also write it into this file.
    """
    from shards.index import describe, read_index, shards_info
    from shards.reading.order import folder_speakers

    _check_json(json, folder)
    about = shards_info(folder)
    mixed = folder_speakers(read_index(folder).table, _PUBLISHED_BATCH)
    about["speakers"]["batch"] = None if mixed is None else dataclasses.asdict(mixed)
    if json is not None:
        write_json(json, about)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, text in describe(about):
        if name == "speakers" and mixed is not None:
            text += f"; {mixed}"
        table.add_row(name, escape(text))
    Console(emoji=False).print(table)


def receipt(*, folder: Path) -> None:
    """Make the receipt of a folder of shards again: receipt.json, receipt.md and its pictures.

    Builds write one by themselves. The libraries it names are those of the build, if the receipt
    that is replaced told of the same shards; else they are not known.

    Args:
        folder: Of the shards.
    """
    from shards.receipts.receipt import RECEIPT_PAGE, recorded_versions, write_receipt

    if folder.is_dir():  # else it is told what it is not
        check_writable(folder, folder=True)
    write_receipt(folder, versions=recorded_versions(folder))
    print_line(Console(emoji=False), f"receipt: {folder / RECEIPT_PAGE}")


def compare(
    *,
    first: Path,
    second: Path,
    signals: int = 0,
    most: int = 5,
    json: Path | None = None,
) -> int:
    """Say what differs between two preparations.

    The last line is the verdict, the first of these that holds:

    identical bytes: all shards had the same digests when they were built; `hicmae shards check`
    says whether they still do.
    same content: pictures, sound, times and labels are the same bytes by key; they lie otherwise
    in shards, or come from files of other names.
    same samples, other encoding: keys, times, sound, labels and how faces were found are the
    same; settings differ at most in face_size, jpeg_quality, chroma and samples_per_shard.
    comparable: settings that shape samples are the same but for these (others may decide which
    samples there are); at least 95% of either side's samples are in both; of these at most 1%
    differ in label, speaker or split, and 1% by more than one frame; no distribution of duration,
    face size, coverage or loudness is further than 0.1 (Kolmogorov-Smirnov) from the other's.
    Of receipts without their folders, numbers of samples are compared in place of keys, and
    in place of labels shares of classes (within 5%) and quantiles of measurements (within half a
    standard deviation).
    different: anything else; also if --signals finds more than 5% of its samples shifted in time,
    or their pictures further apart than 25 dB (median PSNR).

    The exit status is 0 for the first two, 1 for the others, and 2 for what cannot be compared.

    Args:
        first: A folder of shards, or a receipt.json.
        second: Another.
        signals: Also decode so many of the samples that both have, and compare their pictures and
            sound, and when things happen in them; needs two folders.
        most: Examples that are shown of each difference.
        json: Also write everything into this file.

    Raises:
        FileNotFoundError: There is no such folder or file.
        ValueError: It is no folder of shards and no receipt, or a number is out of range.
    """
    from shards.receipts.compare import (
        SAME,
        compare_preparations,
        print_comparison,
        read_preparation,
    )

    if signals < 0 or most < 0:
        raise ValueError(f"signals = {signals}, most = {most} (each must be 0 or more)")
    _check_json(json, first, second)
    found = compare_preparations(
        read_preparation(first), read_preparation(second), num_signals=signals
    )
    if json is not None:
        text = dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(json, text + "\n")
    width = None if sys.stdout.isatty() else 140  # of a file; a terminal knows its own
    print_comparison(Console(width=width, emoji=False), found, most=most)
    return 0 if found["verdict"] in SAME else 1


def _check_json(json: Path | None, *read: Path) -> None:
    """Refuse to replace what is read: a receipt, or a file of a folder of shards.

    Raises: ValueError: ``json`` is one.
    """
    from shards.building.journal import is_of_build

    if json is None or not json.exists():
        return
    for each in read:
        inside = each.is_dir() and json.resolve().parent == each.resolve()
        if each.exists() and (json.samefile(each) or (inside and is_of_build(json.name))):
            raise ValueError(f"json = {json}: is what is read, and would be replaced; name another")


@with_options_of(CorpusConfig)
def synthesize(*, out: Path, config: CorpusConfig) -> None:
    """Render a corpus of synthetic talking faces: mp4 files and a manifest.csv.

    Args:
        out: The folder; new, empty, or this very corpus.
        config: Of the corpus.

    Raises:
        ValueError: A setting out of its range, or a folder that holds another corpus.
    """
    from shards.synthesis.corpus import synthesize as render

    manifest = render(config, out)
    num_clips = len(manifest.read_text(encoding="utf-8").splitlines()) - 1
    print(f"{num_clips} clips of {config.speakers} speakers: {manifest}")


@contextmanager
def build_display(
    console: Console, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[BuildProgress], None]]:
    """How far a build is: a bar on a terminal, else a line every half minute.

    Yields what the build calls with its progress; ``clock`` gives seconds that only grow.
    """
    began = said = clock()

    def update(now: BuildProgress) -> None:
        nonlocal said
        note = progress_note(now, clock() - began)
        bar.update(task, completed=now.done, total=now.total, note=note)
        if not console.is_terminal and clock() - said >= _LINE_SECONDS:
            said = clock()
            print_line(console, f"{now.done} of {now.total} recordings: {note}")

    with progress_bar(console, width=20, times=False) as bar:
        task = bar.add_task("building", total=None, note="")
        yield update


def progress_note(now: BuildProgress, seconds: float) -> str:
    """Rates, time left and refusals of a build that has been running for so many seconds."""
    from shards.building.build import counted

    new, notes = now.done - now.kept, []
    if new and seconds > 0:
        left = timedelta(seconds=round((now.total - now.done) * seconds / new))
        notes = [
            f"{new / seconds:.1f} recordings/s",
            f"{now.seconds / seconds:.1f} s of video/s",
            f"{left} left",
        ]
    notes.append(f"{now.num_samples} samples")
    causes = counted(now.refused)
    notes.append(f"{now.refused.total()} refused{causes and f' ({causes})'}")
    return ", ".join(notes)


def progress_bar(console: Console, *, width: int = 40, times: bool = True) -> bars.Progress:
    """A bar with counts, times and the field ``note`` of its task; on terminals, while it lasts."""
    return bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=width),
        bars.MofNCompleteColumn(),
        *((bars.TimeElapsedColumn(), bars.TimeRemainingColumn()) if times else ()),
        bars.TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_left_out(console: Console, result: BuildResult) -> None:
    """Every file that is not in the shards, by cause."""
    from shards.manifest import printable
    from shards.settings import REFUSED_NAME

    by_cause: dict[str, list[Refusal]] = defaultdict(list)
    for refusal in result.refusals:
        by_cause[refusal.cause].append(refusal)
    if by_cause:
        table = Table("refused", "files", "meaning")
        for cause, refusals in sorted(by_cause.items()):
            table.add_row(cause, str(len(refusals)), _MEANINGS.get(cause, ""))
        console.print(table)
    for cause, refusals in sorted(by_cause.items()):
        for refusal in refusals[:_MOST_NAMED]:
            print_line(console, f"{cause}: {refusal.message}")
        if len(refusals) > _MOST_NAMED:
            print_line(
                console, f"{cause}: and {len(refusals) - _MOST_NAMED} more, in {REFUSED_NAME}"
            )
    if result.ignored:
        names = ", ".join(printable(path) for path in result.ignored[:_MOST_NAMED])
        more = ", …" if len(result.ignored) > _MOST_NAMED else ""
        print_line(
            console,
            "ignored, no recordings by their suffix, or a video's sound beside it "
            f"({len(result.ignored)}): {names}{more}",
        )
