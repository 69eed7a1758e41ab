"""A receipt for people: ``receipt.md``, its histograms, and a contact sheet of faces.

The sheet shows the samples that are most likely wrong, and some from all over the folder: an eye
sees in seconds what a preparation cut out. The pictures of the same folder are the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from hicmae.figures import plain_words
from hicmae.files import whole_file
from shards.index import Index
from shards.reading.files import ShardFiles, read_frame
from shards.receipts.facts import QUANTITIES, sample_infos
from shards.schema import SampleInfo

FACES_PICTURE = "faces.png"
HISTOGRAMS_PICTURE = "distributions.png"
# Two hues that colour-blind readers tell apart (Okabe and Ito, 2008).
_BARS, _MEDIAN = "#0072B2", "#D55E00"
_PANEL_INCHES = (2.9, 2.3)
_PANELS_PER_ROW = 4
LOWEST_COVERAGE = "lowest face coverage"
SMALLEST_FACES = "smallest faces in the source"
EVENLY_SPREAD = "evenly spread over the folder"

_MOST_SPEAKERS = 10
_MOST_NAMED = 20  # samples of one doubt
_SPREAD = ("mean", "sd", "least", "5 %", "25 %", "median", "75 %", "95 %", "most")
_SHOWN_QUANTILES = ("0", "0.05", "0.25", "0.5", "0.75", "0.95", "1")

_FACES_PER_ROW = 8
_CELL = 120  # pixels
_CAPTION = 30  # pixels under each image
_HEADING = 30  # pixels above each group
_DOTS_PER_INCH = 100
_WEAK = 8  # samples of lowest coverage, and of smallest faces
_EVENLY = 24


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One face of the sheet.

    Args:
        group: Why it was chosen.
        frame: Number of the image within the sample.
        caption: What is remarkable about it.
    """

    group: str
    row: int
    key: str
    frame: int
    caption: str


def receipt_page(about: Mapping[str, Any], cells: Sequence[Cell], pictures: str) -> str:
    """The page.

    Args: pictures: Folder of the pictures, relative to the page.
    """
    parts = [
        "# Receipt of shards",
        _summary(about),
        "Two preparations are compared with `hicmae shards compare A B`, where each is a folder "
        "or its `receipt.json`. Digests are believed, not computed again; "
        "`hicmae shards check FOLDER` does that.",
        "## Digests",
        _table(("of", "SHA-256"), _digest_rows(about)),
        "## Faces",
        f"![Faces of the samples]({pictures}/{FACES_PICTURE})" if cells else "There are none.",
        _table(
            ("shown as", "sample", "frame", ""),
            [(cell.group, f"`{cell.key}`", str(cell.frame), cell.caption) for cell in cells],
        ),
        _pictures(about),
        _sync(about),
        _cut_off(about),
        "## Distributions",
        f"![Histograms]({pictures}/{HISTOGRAMS_PICTURE})",
        _distributions(about),
        "## Splits",
        _groups("split", about["splits"]),
        *_labels(about),
        *_speakers(about),
        "## Sound",
        _sound(about),
        "## Left out",
        _left_out(about),
        "## Configuration",
        _table(
            ("setting", "value"),
            [(name, f"`{json.dumps(value)}`") for name, value in about["configuration"].items()],
        ),
        "## Libraries",
        _table(("library", "version"), about["versions"].items())
        or "Not known: this receipt was made after the build.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_pictures(folder: Path, index: Index, about: Mapping[str, Any]) -> list[Cell]:
    """Write both pictures of a receipt into a folder; what else is in it stays.

    Returns: what the contact sheet shows.
    """
    folder.mkdir(exist_ok=True)
    cells = _draw_contact_sheet(folder / FACES_PICTURE, index)
    _draw_histograms(folder / HISTOGRAMS_PICTURE, about)
    return cells


def _summary(about: Mapping[str, Any]) -> str:
    counts = about["counts"]
    faces = about["faces"]
    detectors = ", ".join(
        f"{detector} ({policy}" + (f", aligned by the {align})" if align != "none" else ")")
        if detector != "none"
        else "none looked for"
        for detector, policy, align in (name.split("/") for name in faces["detectors"])
    )
    rows = [
        (
            "samples",
            f"{counts['num_samples']:,} in "
            + ("one shard" if counts["num_shards"] == 1 else f"{counts['num_shards']:,} shards"),
        ),
        ("hours", f"{counts['hours']:,.2f} ({counts['num_frames']:,} images)"),
        *(("sound alone", f"{n:,} samples") for n in [counts.get("num_sound_alone")] if n),
        ("bytes", f"{counts['bytes']:,}"),
        ("speakers", f"{counts['num_speakers']:,}"),
        ("images", ", ".join(f"{side} x {side} pixels" for side in faces["face_sizes"]) or "none"),
        ("faces", detectors or "no picture"),
        ("refused", f"{counts['num_refused']:,}"),
    ]
    return _table(("", ""), rows)


def _digest_rows(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    digests = about["digests"]
    meanings = {
        "preparation": "configuration",
        "content": "content (pictures, sound, time, labels by key)",
        "ordered_samples": "samples in their order",
        "keys": "keys",
        "picture": "pictures",
        "sound": "sound",
        "time": "time",
        "labels": "labels",
        "faces": "how faces were found",
        "source": "recordings",
    }
    rows = [(text, f"`{digests[name]}`") for name, text in meanings.items()]
    shards = list(digests["shards"].items())
    rows += [(name, f"`{digest}`") for name, digest in shards[:3]]
    if len(shards) > 3:
        rows.append((f"and {len(shards) - 3:,} more shards", "in receipt.json"))
    return rows


def _distributions(about: Mapping[str, Any]) -> str:
    rows = []
    for name, quantity in QUANTITIES.items():
        found = about["distributions"][name]
        values = [found["mean"], found["sd"], *map(found["quantiles"].get, _SHOWN_QUANTILES)]
        cells = ("-" if value is None else f"{value:.4g}" for value in values)
        rows.append((quantity.title, f"{found['num']:,}", *cells))
    return _table(["", "known", *_SPREAD], rows)


def _labels(about: Mapping[str, Any]) -> list[str]:
    """A section a label column of classes, and one of all that were measured."""
    parts, measured, names = [], [], []
    for name, label in about["labels"].items():
        if "classes" in label:
            parts.append(f"## Label `{name}`")
            if label["missing"]:
                parts.append(f"{label['missing']:,} samples have none.")
            parts.append(_groups(name, label["classes"]))
        elif "quantiles" in label:
            values = [label["mean"], label["sd"], *map(label["quantiles"].get, _SHOWN_QUANTILES)]
            cells = (f"{value:.4g}" for value in values)
            measured.append((name, f"{label['missing']:,}", *cells))
        else:
            names.append((name, f"{label['missing']:,}", f"{label['num_values']:,}"))
    if measured:
        parts += ["## Labels that are measured", _table(["", "missing", *_SPREAD], measured)]
    if names:
        heads = ("", "missing", "different values")
        parts += ["## Labels of many values", _table(heads, names)]
    return parts


def _speakers(about: Mapping[str, Any]) -> list[str]:
    speakers = about["speakers"]
    if not speakers["num"]:
        return ["## Speakers", "No sample has a speaker."]
    samples, seconds = (speakers["quantiles"][name] for name in ("num_samples", "seconds"))
    text = (
        f"{speakers['num']:,} speakers: {samples['0']:g} to {samples['1']:g} samples each (median "
        f"{samples['0.5']:g}), {seconds['0']:g} to {seconds['1']:g} seconds (median "
        f"{seconds['0.5']:g})."
    )
    if speakers["samples_without"]:
        text += f" {speakers['samples_without']:,} samples have none."
    # Most first; equal ones by name, so that the page is the same every time.
    longest = sorted(speakers["each"].items(), key=lambda item: (-item[1]["seconds"], item[0]))
    heading = "speaker" if len(longest) <= _MOST_SPEAKERS else f"{_MOST_SPEAKERS} longest speakers"
    return ["## Speakers", text, _groups(heading, dict(longest), most=_MOST_SPEAKERS)]


def _sound(about: Mapping[str, Any]) -> str:
    sound = about["sound"]
    rows = [(state, f"{count:,} samples") for state, count in sound["states"].items()]
    if sound["num_padded"]:
        padded = f"{sound['num_padded']:,} samples, {sound['padded_seconds']:,.1f} s together"
        rows.append(("padded with zeros", padded))
    if sound["num_damaged"]:
        rows.append(("damaged in parts", f"{sound['num_damaged']:,} samples"))
    rows += [(taken, f"{count:,} samples") for taken, count in sound.get("taken", {}).items()]
    return _table(("sound", ""), rows)


def _pictures(about: Mapping[str, Any]) -> str:
    done = about.get("pictures", {})  # none in most receipts, and in older ones
    rows = [(name.replace("_", " "), f"{count:,} samples") for name, count in done.items()]
    return _table(("stored pictures", ""), rows)


def _sync(about: Mapping[str, Any]) -> str:
    found = about.get("sync")  # only where mouths were held against the sound
    if not found:
        return ""
    rows = [("go together", f"{found['num_ok']:,} samples")]
    for word, title in (("apart", "perhaps not of one moment"), ("shifted", "perhaps slipped")):
        keys = found.get(word, {})
        listed = "; ".join(f"`{key}` ({said})" for key, said in list(keys.items())[:_MOST_NAMED])
        more = ", …" if len(keys) > _MOST_NAMED else ""
        rows.append((title, f"{found[f'num_{word}']:,} samples{': ' * bool(keys)}{listed}{more}"))
    return _table(("mouth and voice", ""), rows)


def _cut_off(about: Mapping[str, Any]) -> str:
    found = about.get("cut_off", {})  # none in most receipts, and in older ones
    rows = [(f"`{key}`", said) for key, said in list(found.items())[:_MOST_NAMED]]
    rows += [("…", f"{len(found):,} in all")] * (len(found) > _MOST_NAMED)
    return _table(("sample", "its recording"), rows)


def _left_out(about: Mapping[str, Any]) -> str:
    rows = [(f"refused: {cause}", f"{count:,}") for cause, count in about["refused"].items()]
    rows += [(f"ignored: {suffix}", f"{count:,}") for suffix, count in about["ignored"].items()]
    return _table(("", "files"), rows) or "Nothing."


def _groups(name: str, groups: Mapping[str, Mapping[str, Any]], *, most: int | None = None) -> str:
    """A table of groups, the first ``most`` of them; shares are of the samples of all."""
    total = sum(group["num_samples"] for group in groups.values())
    heads = [name, "samples", "share", "minutes"]
    with_speakers = any("num_speakers" in group for group in groups.values())
    rows = []
    for value, group in list(groups.items())[:most]:
        cells = [
            value,
            f"{group['num_samples']:,}",
            f"{group['num_samples'] / total:.1%}",
            f"{group['seconds'] / 60:,.1f}",
        ]
        rows.append([*cells, f"{group['num_speakers']:,}"] if with_speakers else cells)
    return _table([*heads, "speakers"] if with_speakers else heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; nothing without rows."""
    lines = [list(heads), [":---", *["---:"] * (len(heads) - 1)], *map(list, rows)]
    if len(lines) == 2:
        return ""
    # No text can end its cell.
    cells = ([text.replace("|", "\\|").replace("\n", " ") for text in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _draw_histograms(path: Path, about: Mapping[str, Any]) -> None:
    """One panel a quantity, and two of counts: sound states and how boxes were found."""
    num_panels = len(QUANTITIES) + 2
    rows = -(-num_panels // _PANELS_PER_ROW)
    width, height = _PANEL_INCHES
    figure = Figure(
        figsize=(width * _PANELS_PER_ROW, height * rows),
        dpi=100,
        facecolor="w",
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    places = iter(range(1, num_panels + 1))
    for name in QUANTITIES:
        axes = figure.add_subplot(rows, _PANELS_PER_ROW, next(places))
        _draw_quantity(axes, name, about["distributions"][name])
    for title, counts in (
        ("sound, samples", about["sound"]["states"]),
        ("face box, frames", about["faces"]["found_by"]),
    ):
        _draw_counts(figure.add_subplot(rows, _PANELS_PER_ROW, next(places)), title, counts)
    _save_png(figure, path)


def _draw_quantity(axes: Axes, name: str, found: Mapping[str, Any]) -> None:
    quantity = QUANTITIES[name]
    _style(axes, quantity.title)
    if not found["num"]:
        _say(axes, quantity.missing or "no values")
        return
    if quantity.logarithmic:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    starts, ends, counts = np.array(found["bins"], dtype=np.float64).T
    if name == "face_coverage":  # nearly all samples are at 1, and the others matter
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.bar(starts, counts, ends - starts, align="edge", color=_BARS, linewidth=0)
    median = found["quantiles"]["0.5"]
    axes.axvline(median, color=_MEDIAN, linewidth=1)
    missing = f"; {found['num_missing']} {quantity.missing}" if found["num_missing"] else ""
    axes.set_xlabel(f"median {median:.4g} {quantity.unit}".rstrip() + missing, fontsize=7)
    axes.set_xlim(*_limits(quantity.edges, starts[0], ends[-1]))


def _limits(edges: np.ndarray, start: float, end: float) -> tuple[float, float]:
    """What to show: the bins with values, and a few more where these are few."""
    first = max(0, int(np.searchsorted(edges, start)) - 3)
    last = min(len(edges) - 1, int(np.searchsorted(edges, end * 0.9999)) + 3)
    return float(edges[first]), float(edges[last])


def _draw_counts(axes: Axes, title: str, counts: Mapping[str, int]) -> None:
    _style(axes, title)
    if not counts:
        _say(axes, "none")
        return
    bars = axes.barh(list(counts), list(counts.values()), color=_BARS, height=0.6)
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.set_ylim(max(len(counts), 3) - 0.5, -0.5)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _say(axes: Axes, text: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.text(
        0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, fontsize=8, color="0.4"
    )


def _draw_contact_sheet(path: Path, index: Index) -> list[Cell]:
    """Draw faces into a PNG whose bytes depend on the samples alone; returns what is on it.
    Of samples with the lowest coverage it is the middle of the longest stretch without a detection,
    where the crop is a guess; of others, the middle.
    """
    cells: list[Cell] = []
    images: list[np.ndarray] = []
    files = ShardFiles(index.folder)
    for group, rows in choose(index).items():
        for row, (_, info) in zip(rows, sample_infos(index, rows), strict=True):
            frame = _weakest_frame(info) if group == LOWEST_COVERAGE else info.num_frames // 2
            images.append(_image(index, files, row, info, frame))
            caption = _caption(info, group)
            cells.append(Cell(group=group, row=row, key=info.key, frame=frame, caption=caption))
    _draw_sheet(path, cells, images)
    return cells


def choose(index: Index) -> dict[str, list[int]]:
    """Rows of the index by the group they are shown in; no row twice, no group empty."""
    table = index.table
    coverage = table["face_coverage"].to_numpy(dtype=np.float64)
    pixels = table["face_pixels"].to_numpy(dtype=np.float64)
    seen = table["mjpg_length"].to_numpy() > 0
    weak = [
        int(row) for row in np.argsort(coverage, kind="stable") if coverage[row] < 1 and seen[row]
    ][:_WEAK]
    small = [
        int(row)
        for row in np.argsort(pixels, kind="stable")[: 2 * _WEAK]
        if np.isfinite(pixels[row]) and row not in weak
    ][:_WEAK]
    left = np.setdiff1d(np.flatnonzero(seen), [*weak, *small])
    places = np.linspace(0, len(left) - 1, min(_EVENLY, len(left))).round().astype(int)
    groups = {LOWEST_COVERAGE: weak, SMALLEST_FACES: small, EVENLY_SPREAD: left[places].tolist()}
    return {group: rows for group, rows in groups.items() if rows}


def _weakest_frame(info: SampleInfo) -> int:
    """The middle of the longest stretch of frames that no detection nor its neighbours gave."""
    start, best, found = 0, (0, info.num_frames // 2), info.faces.found_by
    for word, count in found:
        if word != "detected":
            best = max(best, (count, start + count // 2), key=lambda stretch: stretch[0])
        start += count
    return min(best[1], info.num_frames - 1)


def _caption(info: SampleInfo, group: str) -> str:
    if group == LOWEST_COVERAGE:
        return f"{info.faces.coverage:.0%} of frames"
    if info.faces.face_pixels is not None:
        return f"{info.faces.face_pixels:.0f} px"
    return f"{info.seconds:.1f} s"


def _image(index: Index, files: ShardFiles, row: int, info: SampleInfo, frame: int) -> np.ndarray:
    image = read_frame(index, files, row, info, frame)
    shrinks = image.shape[0] > _CELL
    resized = cv2.resize(
        image, (_CELL, _CELL), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
    return np.asarray(resized, dtype=np.uint8)


def _draw_sheet(path: Path, cells: Sequence[Cell], images: Sequence[np.ndarray]) -> None:
    """Compose the sheet: a heading a group, rows of faces with keys and captions."""
    places: list[tuple[int, int]] = []  # left and top of each cell, pixels
    headings: list[tuple[int, str]] = []
    top, column, group = 0, 0, ""
    for cell in cells:
        if cell.group != group:
            top += (_CELL + _CAPTION) * bool(places)
            headings.append((top, cell.group))
            top, column, group = top + _HEADING, 0, cell.group
        elif column == _FACES_PER_ROW:
            top, column = top + _CELL + _CAPTION, 0
        places.append((column * _CELL, top))
        column += 1
    width, height = _FACES_PER_ROW * _CELL, top + _CELL + _CAPTION
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    for (left, above), image in zip(places, images, strict=True):
        sheet[above : above + _CELL, left + 1 : left + _CELL - 1] = image[:, 1:-1]
    figure = Figure(
        figsize=(width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH, facecolor="w"
    )
    FigureCanvasAgg(figure)
    figure.figimage(sheet[::-1], origin="lower")
    for above, text in headings:
        y = 1 - (above + _HEADING - 8) / height
        figure.text(2 / width, y, text, fontsize=10, fontweight="bold", va="bottom")
    for cell, (left, above) in zip(cells, places, strict=True):
        # The end of a key tells samples apart.
        shown = cell.key if len(cell.key) <= 24 else f"…{cell.key[-23:]}"
        for line, text in enumerate((shown, cell.caption)):
            figure.text(
                (left + _CELL / 2) / width,
                1 - (above + _CELL + 2 + 12 * line) / height,
                text,
                fontsize=6,
                color="black" if line == 0 else "0.35",
                ha="center",
                va="top",
            )
    _save_png(figure, path)


def _save_png(figure: Figure, path: Path) -> None:
    """Write a figure without the name of the program or a date in it."""
    with whole_file(path) as beside, plain_words(figure):
        figure.savefig(beside, format="png", metadata={"Software": None})
