"""A receipt as a page for people.

For: ``receipt.md``, in Markdown, with the pictures beside it. Not for: what machines compare
(``receipt.json``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shards.receipts.contact_sheet import Cell
from shards.receipts.distributions import QUANTITIES
from shards.receipts.receipt_pictures import FACES_PICTURE, HISTOGRAMS_PICTURE

_MOST_SPEAKERS = 10
_SPREAD = ("mean", "sd", "least", "5 %", "25 %", "median", "75 %", "95 %", "most")
_SHOWN_QUANTILES = ("0", "0.05", "0.25", "0.5", "0.75", "0.95", "1")


def receipt_page(about: Mapping[str, Any], cells: Sequence[Cell], pictures: str) -> str:
    """The page.

    Args:
        about: The content of ``receipt.json``.
        cells: What the contact sheet shows.
        pictures: Folder of the pictures, relative to the page.
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
        f"![Faces of the samples]({pictures}/{FACES_PICTURE})",
        _table(
            ("shown as", "sample", "frame", ""),
            [(cell.group, f"`{cell.key}`", str(cell.frame), cell.caption) for cell in cells],
        ),
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
        ("samples", f"{counts['num_samples']:,} in {_shards(counts['num_shards'])}"),
        ("hours", f"{counts['hours']:,.2f} ({counts['num_frames']:,} images)"),
        ("bytes", f"{counts['bytes']:,}"),
        ("speakers", f"{counts['num_speakers']:,}"),
        ("images", ", ".join(f"{side} x {side} pixels" for side in faces["face_sizes"])),
        ("faces", detectors),
        ("refused", f"{counts['num_refused']:,}"),
    ]
    return _table(("", ""), rows)


def _digest_rows(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The digests, but of shards only the first few."""
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
    return ["## Speakers", text, _groups(heading, dict(longest[:_MOST_SPEAKERS]))]


def _sound(about: Mapping[str, Any]) -> str:
    sound = about["sound"]
    rows = [(state, f"{count:,} samples") for state, count in sound["states"].items()]
    if sound["num_padded"]:
        padded = f"{sound['num_padded']:,} samples, {sound['padded_seconds']:,.1f} s together"
        rows.append(("padded with zeros", padded))
    if sound["num_damaged"]:
        rows.append(("damaged in parts", f"{sound['num_damaged']:,} samples"))
    return _table(("sound", ""), rows)


def _left_out(about: Mapping[str, Any]) -> str:
    rows = [(f"refused: {cause}", f"{count:,}") for cause, count in about["refused"].items()]
    rows += [(f"ignored: {suffix}", f"{count:,}") for suffix, count in about["ignored"].items()]
    return _table(("", "files"), rows) or "Nothing."


def _groups(name: str, groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Samples and time of each value."""
    total = sum(group["num_samples"] for group in groups.values())
    heads = [name, "samples", "share", "minutes"]
    with_speakers = any("num_speakers" in group for group in groups.values())
    rows = []
    for value, group in groups.items():
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
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _shards(number: int) -> str:
    return "one shard" if number == 1 else f"{number:,} shards"


def _cell(text: str) -> str:
    """Text that cannot end its cell."""
    return text.replace("|", "\\|").replace("\n", " ")
