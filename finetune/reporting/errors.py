"""The samples that a network is most wrong about, with a frame of each.

Looking at errors finds bad labels and bad faces sooner than any table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.benchmark import Benchmark
from finetune.instants import OverTime, recording_of, traces_of
from finetune.predictions import Prediction, true_and_predicted
from finetune.record import Run
from finetune.reporting import document as doc
from hicmae.files import file_sha256
from shards.index import TABLE_NAME, Index, read_index
from shards.reading.files import ShardFiles, read_frame
from shards.receipts.facts import sample_infos
from shards.schema import ClipError, ShardError

NUM_ERRORS = 20
_COLUMNS = 5
# Pixels of a contact sheet: a face, the space beside it, and a line of text.
_FACE, _GAP, _LINE = 220, 16, 19


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One error.

    Args:
        sample: Key of the sample whose frame shows it.
        size: Probability of the wrong class; of real values, the distance from the truth in
            standard deviations of the truth, root of the mean square over targets.
    """

    unit: Prediction
    sample: str
    size: float


def error_section(
    run: Run, figures: Path, shards: Path | None, *, of: str = ""
) -> doc.Section | None:
    """The most confident errors of a run; of real values, the largest.

    Args:
        shards: Where the run's shards are now; none given: where they were.
        of: Name of the head, where there are several.

    Returns: nothing where no unit is wrong.
    """
    mistakes = worst(run)
    if not mistakes:
        return None
    of_classes = run.benchmark.task == "classification"
    frames, missing = read_frames(
        shards or Path(run.facts.shards),
        run.facts.shards_digest,
        [mistake.sample for mistake in mistakes],
        over_time=run.benchmark.over_time,
    )
    parts: list[doc.Part] = [
        f"The {len(mistakes)} "
        + (
            "wrong predictions of the highest probability."
            if of_classes
            else "predictions farthest from the truth, in standard deviations of the true values"
            " (root of the mean square over targets)."
        )
        + " Look at them before trusting a score: wrong labels and wrong faces end up here."
    ]
    if frames:
        path = figures / "errors.jpg"
        _sheet(run.benchmark, mistakes, frames, path)
        middle = "" if run.benchmark.over_time else "middle "
        parts.append(doc.Picture(path=path, caption=f"The {middle}frame of each, the worst first"))
    if missing:
        parts.append(f"**Note.** {missing}")
    parts.append(_table(run, mistakes))
    title = "Most confident errors" if of_classes else "Largest errors"
    return doc.Section(title=f"{title} of head {of}" if of else title, parts=parts)


def worst(run: Run) -> list[Mistake]:
    """The largest mistakes, the worst first; of equal ones the key decides."""
    benchmark, units = run.benchmark, run.units
    # A recording is shown by its first sample.
    samples: dict[str, str] = {}
    for item in run.predictions:
        samples.setdefault(item.unit if benchmark.average_over else item.key, item.key)
    if benchmark.task == "classification":
        sizes = [
            max(item.probabilities or ()) if item.predicted != item.true else 0.0 for item in units
        ]
    else:
        true, predicted = true_and_predicted(benchmark, units)
        spread = true.std(axis=0)
        scaled = (predicted - true) / np.where(spread > 0, spread, 1)
        sizes = np.sqrt((scaled**2).mean(axis=1)).tolist()
    order = sorted(range(len(units)), key=lambda place: (-sizes[place], units[place].key))
    return [
        Mistake(unit=units[place], sample=samples[units[place].key], size=sizes[place])
        for place in order[:NUM_ERRORS]
        if sizes[place] > 0
    ]


def read_frames(
    folder: Path, digest: str, keys: Sequence[str], *, over_time: OverTime | None = None
) -> tuple[dict[str, np.ndarray], str]:
    """Read the middle frame of samples, or the frame of instants.

    Args:
        digest: SHA-256 that their index has if they are the run's.
        over_time: Of instants, how they are known.

    Returns: key to uint8 (H, W, 3), of samples that have a picture, and a sentence about those
        that are missing, if any.
    """
    try:
        index = read_index(folder)
        if file_sha256(folder / TABLE_NAME) != digest:
            return {}, (
                f"The shards in {folder} are not those of this run (their index differs), so no"
                " frames are shown; `--shards FOLDER` names others."
            )
        places = {str(key): (row, 0.5) for row, key in enumerate(index.table["key"])}
        if over_time is not None:
            places = _instants(index, over_time, keys, places)
        unknown = [key for key in keys if key not in places]
        if unknown:
            return {}, (
                f"Sample '{unknown[0]}' is not in the shards in {folder} ({len(unknown)} such), so"
                " no frames are shown."
            )
        files, frames = ShardFiles(index.folder), {}
        for key in keys:
            row, share = places[key]
            _, info = next(sample_infos(index, [row]))
            if info.has_images:
                number = min(int(share * info.num_frames), info.num_frames - 1)
                frames[key] = read_frame(index, files, row, info, number)
    except FileNotFoundError:
        return {}, (
            f"The shards are no longer in {folder}, so no frames are shown; `--shards FOLDER` says"
            " where they are."
        )
    except (ClipError, ShardError) as error:
        return {}, f"The frames cannot be read ({error})."
    return frames, ""


def _instants(
    index: Index, over_time: OverTime, keys: Sequence[str], samples: Mapping[str, tuple[int, float]]
) -> dict[str, tuple[int, float]]:
    """Row of the sample that an instant is of, and at which share of it."""
    traces, lengths = traces_of(index, over_time), index.table["seconds"].to_numpy()
    found = {}
    for key in keys:
        recording, seconds = recording_of(key)
        for name, trace in traces.items():
            number = round((seconds - trace.since) / trace.hop)
            if trace.recording == recording and 0 <= number < trace.num_own:
                row, _ = samples[name]
                found[key] = row, (trace.at + trace.hop * number + 1e-6) / float(lengths[row])
    return found


def _table(run: Run, mistakes: Sequence[Mistake]) -> doc.Table:
    benchmark = run.benchmark
    of_classes = benchmark.task == "classification"
    named = any(mistake.unit.speaker for mistake in mistakes)
    heads = ["", benchmark.average_over or "sample", "fold"]
    heads += [benchmark.speaker] if named else []
    heads += ["true", "predicted"]
    heads += ["probability", "of the true class"] if of_classes else ["distance"]
    rows = []
    for place, mistake in enumerate(mistakes, start=1):
        unit = mistake.unit
        cells = [str(place), unit.key, unit.fold, *([unit.speaker] if named else [])]
        cells += [_text(benchmark, unit.true), _text(benchmark, unit.predicted)]
        cells.append(f"{mistake.size:.3f}")
        if unit.probabilities is not None:
            cells.append(f"{unit.probabilities[benchmark.classes.index(str(unit.true))]:.3f}")
        rows.append(cells)
    return doc.Table(columns=heads, rows=rows)


def _sheet(
    benchmark: Benchmark,
    mistakes: Sequence[Mistake],
    frames: Mapping[str, np.ndarray],
    path: Path,
) -> None:
    """A contact sheet: frame, truth, prediction and key of each error."""
    head = _LINE * max(2, len(benchmark.targets)) + 4
    side, step = _FACE + _GAP, head + _FACE + 2 * _LINE
    rows = -(-len(mistakes) // _COLUMNS)
    width, height = side * min(_COLUMNS, len(mistakes)), step * rows
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    figure = doc.make_figure(width / doc.DOTS_PER_INCH, height / doc.DOTS_PER_INCH, arranged=False)
    for place, mistake in enumerate(mistakes):
        left, top = side * (place % _COLUMNS), step * (place // _COLUMNS)
        alone = np.full((_FACE, _FACE, 3), 230, dtype=np.uint8)  # of sound alone
        face = Image.fromarray(frames.get(mistake.sample, alone)).resize(
            (_FACE, _FACE), Image.Resampling.LANCZOS
        )
        sheet[top + head : top + head + _FACE, left : left + _FACE] = np.asarray(face)
        below = "\n".join(textwrap.wrap(mistake.unit.key[-72:], 36))
        for text, line, size, colour in (
            (f"{place + 1}  {_heading(benchmark, mistake)}", top, 8, "black"),
            (below, top + head + _FACE + 2, 5.5, doc.GREY),
        ):
            figure.text(
                left / width,
                1 - line / height,
                text,
                fontsize=size,
                color=colour,
                va="top",
            )
    figure.figimage(sheet[::-1], origin="lower")
    doc.save(figure, path, photographs=True)


def _heading(benchmark: Benchmark, mistake: Mistake) -> str:
    unit = mistake.unit
    if unit.probabilities is not None:
        return f"true: {unit.true}\n{unit.predicted} {mistake.size:.2f}"
    return "\n".join(
        f"{name} {doc.short(true)} → {doc.short(predicted)}"
        for name, true, predicted in zip(
            benchmark.targets, _numbers(unit.true), _numbers(unit.predicted), strict=True
        )
    )


def _numbers(value: str | tuple[float, ...]) -> tuple[float, ...]:
    assert isinstance(value, tuple)
    return value


def _text(benchmark: Benchmark, value: str | tuple[float, ...]) -> str:
    if isinstance(value, str):
        return value
    pairs = zip(benchmark.targets, value, strict=True)
    return ", ".join(f"{name} {doc.short(number)}" for name, number in pairs)
