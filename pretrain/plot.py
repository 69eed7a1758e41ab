"""Curves of pretraining runs, drawn from ``metrics.csv``: the command ``hicmae pretrain plot``."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hicmae.figures import plain_words
from hicmae.files import check_writable, whole_file

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    Columns = Mapping[str, np.ndarray]

_DOTS_PER_INCH = 110
_PANEL_INCHES = (4.6, 2.7)
_COLUMNS = 3
# Hues that colour-blind readers tell apart (Okabe and Ito, 2008), and a style for each run.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A5C00")
_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Columns that are drawn together."""

    title: str
    columns: str  # pattern that the whole name of a column must match
    logarithmic: bool = False


PANELS = (
    Panel(title="loss", columns="loss|video|audio"),
    Panel(title="contrast (sum over layers)", columns="contrast"),
    Panel(title="contrast accuracy", columns="contrast_accuracy_layer.*"),
    Panel(
        title="norms: gradient, update, parameters",
        columns="(gradient|update|parameter)_norm",
        logarithmic=True,
    ),
    Panel(
        title="update over parameters, by part",
        columns="relative_update_.*",
        logarithmic=True,
    ),
    Panel(title="learning rate", columns="learning_rate"),
    Panel(title="spread of features (0: collapsed)", columns="feature_std_.*"),
    Panel(title="effective rank of features", columns="feature_rank_.*", logarithmic=True),
    Panel(
        title="probe: retrieval of the partner",
        columns="probe_(video_to_audio|audio_to_video|chance)_recall(1|10)",
    ),
    Panel(
        title="probe: labels",
        columns="probe_.*_(uar|ccc)_(both|(video|audio) alone)|probe_.*_chance_(uar|ccc)",
    ),
    Panel(title="clips a second", columns="clips_per_second"),
    Panel(title="share of time waiting for data", columns="data_wait_share"),
    Panel(title="memory, GiB", columns="(peak|resident)_memory_gib"),
    Panel(title="skipped samples", columns="skipped.*"),
)


def plot(*, runs: list[Path], out: Path | None = None, smooth: int = 1) -> int:
    """Draw the curves of pretraining runs.

    Args:
        runs: Run folders, or their metrics.csv; several are drawn over one another.
        out: The PNG, which several runs need; null: figures/curves.png of the one run.
        smooth: Rows that a point of a curve is the mean of.

    Returns: 0.
    Raises:
        ValueError: A run without rows, several runs without ``out``, or a number out of range.
        FileNotFoundError: No such run.
    """
    if smooth < 1:
        raise ValueError(f"smooth = {smooth} (must be 1 or more)")
    if out is None and len(runs) > 1:
        raise ValueError(f"{len(runs)} runs: say where the picture goes with --out FILE.png")
    files = [run if run.suffix == ".csv" else run / "metrics.csv" for run in runs]
    path = out or files[0].parent / "figures" / "curves.png"
    check_writable(path)
    curves = {_name(file, files): read_curves(file) for file in files}
    draw_curves(path, curves, smooth=smooth)
    print(path)
    return 0


def read_curves(path: Path) -> dict[str, np.ndarray]:
    """The columns of a ``metrics.csv``; what a row does not have is NaN.

    Raises: FileNotFoundError, or ValueError: no rows, or no numbers.
    """
    import numpy as np

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a pretraining run with rows in it")
    text = path.read_text(encoding="utf-8")
    # A row that is being written has no end of line yet.
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    if not rows or "step" not in rows[0]:
        raise ValueError(f"{path}: no rows with a step; has the run reached log.log_every steps?")
    columns = {name: np.empty(len(rows)) for name in rows[0] if name}
    for place, row in enumerate(rows):
        for name, values in columns.items():
            try:
                values[place] = float(row[name] or "nan")
            except ValueError:
                raise ValueError(
                    f"{path} line {place + 2}: {name} = {row[name]!r} (must be a number, or empty)"
                ) from None
    return _derived(columns)


def draw_curves(path: Path, curves: Mapping[str, Columns], *, smooth: int = 1) -> None:
    """Write a PNG with a panel for each group of columns that any run has.

    ``smooth`` is the number of rows that a point is the mean of.
    """
    present = {name for columns in curves.values() for name in columns}
    panels = [
        (panel, sorted(name for name in present if re.fullmatch(panel.columns, name)))
        for panel in PANELS
    ]
    panels = [(panel, names) for panel, names in panels if _has_numbers(curves, names)]
    if not panels:
        raise ValueError(
            f"{', '.join(curves)}: no column that is drawn (found {present or 'none'})"
        )
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = -(-len(panels) // _COLUMNS)
    width, height = _PANEL_INCHES
    figure = Figure(
        figsize=(width * min(_COLUMNS, len(panels)), height * rows + 0.5),
        dpi=_DOTS_PER_INCH,
        facecolor="w",
        layout="constrained",
    )
    if len(curves) > 1:
        styles = {name: _style(number) for number, name in enumerate(curves)}
        lines = [Line2D([], [], color="black", linestyle=style) for style in styles.values()]
        figure.legend(
            lines,
            styles,
            loc="outside upper center",
            ncols=min(_COLUMNS, len(panels)),
            handlelength=5,
            frameon=False,
        )
    else:
        figure.suptitle(next(iter(curves)), fontsize=11, fontweight="bold")
    for place, (panel, names) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, min(_COLUMNS, len(panels)), place)
        _draw_panel(axes, panel, names, curves, smooth)
    with whole_file(path) as beside, plain_words(figure):
        figure.savefig(beside, format="png")


def _draw_panel(
    axes: Axes, panel: Panel, names: Sequence[str], curves: Mapping[str, Columns], smooth: int
) -> None:
    """One group: a colour a column, a style a run, and chance levels in grey."""
    import numpy as np

    shared = os.path.commonprefix(names) if len(names) > 1 else ""  # noqa: RUF071
    shared = shared[: shared.rfind("_") + 1]
    for colour, name in zip(cycle(_COLOURS), names, strict=False):
        for number, columns in enumerate(curves.values()):
            if name not in columns:
                continue
            known = np.isfinite(columns[name])
            steps, values = columns["step"][known], columns[name][known]
            # A colour is explained once, by the first run that has the column.
            named = next(each for each in curves.values() if name in each)
            steps, values = _smoothed(steps, smooth), _smoothed(values, smooth)
            axes.plot(
                steps,
                values,
                linestyle=_style(number),
                color="0.6" if "chance" in name else colour,
                linewidth=1.2,
                marker="." if len(steps) < 3 else None,
                label=name[len(shared) :].strip("_") or name if columns is named else None,
            )
    if panel.logarithmic and axes.dataLim.y1 > 0:
        axes.set_yscale("log")
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_xlabel("step", fontsize=7)
    axes.tick_params(labelsize=7, which="both")
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axes.legend(fontsize=6, frameon=False, ncols=2 if len(names) > 6 else 1)


def _style(number: int) -> Any:
    """Of the run of this number, which no other has: a long dash and as many dots as it takes."""
    if number < len(_STYLES):
        return _STYLES[number]
    return 0, (8, 2, *(1, 2) * (number - len(_STYLES) + 2))


def _derived(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns, and what is drawn of them: memory in GiB, updates over parameters, probes of a
    run that is trained on one modality alone.
    """
    for name in ("peak", "resident"):
        if f"{name}_memory_bytes" in columns:
            columns[f"{name}_memory_gib"] = columns[f"{name}_memory_bytes"] / 2**30
    for name in [
        name for name in columns if re.fullmatch("probe_.*_(uar|ccc)_(video|audio)", name)
    ]:
        if f"{name.rpartition('_')[0]}_both" not in columns:
            columns[f"{name} alone"] = columns[name]
    for name in [name for name in columns if name.startswith("update_norm_")]:
        part = name.removeprefix("update_norm_")
        if f"parameter_norm_{part}" in columns:
            columns[f"relative_update_{part}"] = columns[name] / columns[f"parameter_norm_{part}"]
    return columns


def _has_numbers(curves: Mapping[str, Columns], names: Sequence[str]) -> bool:
    """Whether there is anything to draw; a run that skipped nothing has no panel of that."""
    import numpy as np

    values = [columns[name] for columns in curves.values() for name in names if name in columns]
    if all(name.startswith("skipped") for name in names):
        return any(bool((part > 0).any()) for part in values)
    return any(bool(np.isfinite(part).any()) for part in values)


def _smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Running means over ``window`` values, fewer where there are fewer."""
    import numpy as np

    window = min(window, len(values))
    if window <= 1:
        return values
    return np.convolve(values, np.ones(window) / window, mode="valid")


def _name(file: Path, files: Sequence[Path]) -> str:
    """A run's name: its folder, with as many parents as it takes to tell it from the others."""
    parts = file.resolve().parent.parts
    for length in range(1, len(parts) + 1):
        name = "/".join(parts[-length:])
        same = [
            other for other in files if other.resolve().parent.parts[-length:] == parts[-length:]
        ]
        if len(same) == 1:
            return name
    raise ValueError(f"{file}: given twice")
