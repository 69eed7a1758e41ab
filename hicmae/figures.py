"""Words in pictures: names stand as they are, and letters that the font lacks are said once."""

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
_SAID: list[str] = []  # what this process has said already


@contextmanager
def plain_words(figure: Figure) -> Iterator[None]:
    """Draw a figure within it: a class, key or folder with two dollar signs is no formula.

    What matplotlib warns of, letter by letter, is one line of all of them.
    """
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter, ScalarFormatter

    numbers = []  # of axes, which matplotlib may write as formulas
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True), axis.offsetText]
            if isinstance(axis.get_major_formatter(), (LogFormatter, ScalarFormatter)):
                numbers += labels
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
