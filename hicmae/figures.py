"""Words in pictures: names stand as they are, as far as there is room, and letters that the font
lacks are said once.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MISSING = re.compile(r"Glyph (\d+) .*missing from (?:current )?font")
_LONGEST = 40  # letters of a name beside an axis
_SAID: list[str] = []  # what this process has said already


@contextmanager
def plain_words(figure: Figure) -> Iterator[None]:
    """Draw a figure within it: a class, key or folder with two dollar signs is no formula.

    Long names beside axes lose their middle as long as that leaves them apart; titles and what an
    axis is called go on in another line where the picture ends. What matplotlib warns of, letter by
    letter, is one line of all of them.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter, LogFormatter, ScalarFormatter

    numbers = []  # of axes, which matplotlib may write as formulas
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True), axis.offsetText]
            formatter = axis.get_major_formatter()
            if isinstance(formatter, (LogFormatter, ScalarFormatter)):
                numbers += labels
            if isinstance(formatter, FuncFormatter):  # of places that have names
                names = [label.get_text() for label in axis.get_ticklabels()]
                axis.set_ticks(axis.get_ticklocs(), labels=_shortened(names))
    titles = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label)]
    for text in (*figure.texts, *titles):
        # Matplotlib measures what it wraps as a formula, even where it draws none.
        text.set_wrap(text.get_text().count("$") < 2)
    of_numbers = set(map(id, numbers))
    for text in figure.findobj(Text):
        if isinstance(text, Text) and id(text) not in of_numbers:
            text.set_parse_math(False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    letters = []
    for warning in told:
        found = _MISSING.match(str(warning.message))
        if found:
            letters.append(chr(int(found[1])))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if letters and not _SAID:
        _SAID.append("letters")
        letters = list(dict.fromkeys(letters))
        shown = " ".join(letters[:10]) + (" …" if letters[10:] else "")
        print(
            f"note: the font of pictures lacks letters ({shown}), so boxes stand in their place;"
            " tables and files have the names as they are",
            file=sys.stderr,
        )


def _shortened(names: list[str]) -> list[str]:
    """Names of a length that fits, or of the next that tells them apart."""
    for half in range(_LONGEST // 2, max(map(len, names), default=0) // 2, 10):
        short = [_without_middle(name, half) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    return names


def _without_middle(name: str, half: int) -> str:
    """Of each line of a name, so many letters of its begin and its end."""
    lines = name.split("\n")
    return "\n".join(
        line if len(line) <= 2 * half else f"{line[:half].rstrip()} … {line[-half:].lstrip()}"
        for line in lines
    )
