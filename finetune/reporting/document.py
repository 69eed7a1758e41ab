"""A report as data: text, tables, pictures and sections, in Markdown and in one HTML file.

The HTML is made of the Markdown, holds its pictures, and fetches nothing, so that it can be mailed.
Text that looks like HTML is shown as text, but for the folds that reports are written with. Its
pictures have one palette and one frame, and are small files.
"""

from __future__ import annotations

import base64
import functools
import html
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import numpy as np
import rich.table
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from PIL import Image
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement

from finetune.scores import Scores
from finetune.selection import CHOSEN_ON_TEST
from hicmae.figures import plain_words
from hicmae.files import whole_file, write_text
from hicmae.heads import of_unit
from hicmae.terminal import plain_console

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What stands where a column of numbers has none.
_NO_NUMBER = ("", "n/a", "not named")
# Between a measured column's name and its selection rule.
_SELECTION = ", selection "
_STYLE = Path(__file__).with_name("page.css")
_PICTURES = {".png": "image/png", ".jpg": "image/jpeg"}
# What a cell may hold that Markdown reads, and a cell that is meant to be bold.
_MARKUP = re.compile(r"[\\`*_\[\]<>&!~]")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_FOLD = re.compile(r"<details><summary>([^<>]*)</summary>")
# A page with fewer headings needs no list of them.
_MIN_CONTENTS = 4
# Hues that colour-blind readers tell apart.
# Source: Okabe and Ito, 2008, Color Universal Design; its yellow is too light on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# With another shape each time that the hues begin anew.
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
BLUE, ORANGE = PALETTE[:2]
MODALITY_COLOURS = {"video": BLUE, "audio": ORANGE}
GREY = "#555555"
DOTS_PER_INCH = 130
_MOST_INCHES, _CLOSE_INCHES = 32.0, 9.0  # of rows with their names, and of more without
_COLOURS = 128  # of a written PNG; drawings have few


@dataclass(frozen=True, kw_only=True)
class Table:
    """Text in rows; numbers are aligned right, the first column and words left.

    Args:
        title: Shown on the terminal, above the table.
        notes: Shown on the terminal, below it; reports say them in their text.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """The table in Markdown, without a line break at its end."""
        rule = ["---:" if right else ":---" for right in self._right]
        lines = [self.columns, rule, *self.rows]
        return "\n".join(
            "| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in lines
        )

    def terminal(self) -> rich.table.Table:
        """The table for a rich console; the selection rule is left to its title or a column."""
        # Columns of a terminal are narrow: a sign behind the number, its meaning below the table.
        chosen = any(CHOSEN_ON_TEST in cell for row in self.rows for cell in row)
        below = [f"†{CHOSEN_ON_TEST}"] if chosen else []
        below += filter(None, dict.fromkeys(self.notes))
        table = rich.table.Table(
            title=self.title or None,
            title_justify="left",
            caption="\n".join(below) or None,
            caption_justify="left",
        )
        for column, right in zip(self.columns, self._right, strict=True):
            short = _unbold(column.partition(_SELECTION)[0])
            table.add_column(short, justify="right" if right else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(_unbold(cell).replace(CHOSEN_ON_TEST, " †") for cell in row))
        return table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As ``terminal``, but turned where its columns would break numbers into pieces."""
        table, wide = self.terminal(), options.update(max_width=10_000)
        if Measurement.get(console, wide, table).minimum > options.max_width:
            heads = [column.partition(_SELECTION)[0] for column in self.columns]
            columns, *rows = zip(heads, *self.rows, strict=True)
            table = replace(self, columns=columns, rows=rows).terminal()
        yield table

    @property
    def _right(self) -> list[bool]:
        columns = [[row[place] for row in self.rows] for place in range(len(self.columns))]
        return [place > 0 and all(map(_is_number, cells)) for place, cells in enumerate(columns)]


def output_console() -> Console:
    """Where a verb writes; wide enough for any table where nobody looks at a terminal."""
    width = None if sys.stdout.isatty() else 160
    return plain_console(width=width)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample deviation; the latter is not-a-number of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def json_number(value: float) -> float | None:
    """A number for JSON, which has no not-a-number."""
    return None if math.isnan(value) else value


def measured(name: str, rule: str) -> str:
    """The head of a column of measured numbers, which names their selection rule."""
    return f"{name}{_SELECTION}{rule}"


def short(value: float, sign: str = "") -> str:
    """A number in the unit of a target, whatever that is: three digits, or all before the point;
    ``sign``: + shows that of positive ones too.
    """
    return f"{value:{sign}z.3g}" if abs(value) < 999.5 else f"{value:{sign}.0f}"


def number(value: float, metric: str = "") -> str:
    """A score with three decimals, or as ``short`` if its metric is of the label's unit and these
    do not fit; an undefined one is ``n/a``.
    """
    if math.isnan(value):
        return "n/a"
    fits = not of_unit(metric) or 0.0995 <= abs(value) < 999.5
    return f"{value:z.3f}" if fits else short(value)


def signed(value: float) -> str:
    """A difference with three decimals and its sign; an undefined one is ``n/a``."""
    return "n/a" if math.isnan(value) else f"{value:+z.3f}"


def fold_spread(scores: Scores, metric: str) -> str:
    """Mean ± deviation over folds; the mean alone of a single fold."""
    return spread(scores.mean[metric], scores.sd[metric], metric)


def spread(mean: float, sd: float, metric: str = "") -> str:
    """Mean ± deviation; the mean alone where there is no deviation."""
    shown = number(mean, metric)
    return shown if math.isnan(mean) or math.isnan(sd) else f"{shown} ± {number(sd, metric)}"


def range_of(low: float, high: float, metric: str = "") -> str:
    """An interval; an undefined one is ``n/a``."""
    undefined = math.isnan(low) or math.isnan(high)
    return "n/a" if undefined else f"{number(low, metric)} to {number(high, metric)}"


def literal(cell: str) -> str:
    """A cell, heading or name in a sentence that shows as it is: a class, key or folder is no
    markup, a whole bold cell is.
    """
    bold = _BOLD.fullmatch(cell)
    if bold:
        return f"**{literal(bold[1])}**"
    if not _MARKUP.search(cell):
        return cell
    (inline,) = _parser().parseInline(cell)
    shown = "".join(token.content for token in inline.children or [] if token.type == "text")
    return cell if shown == cell else _MARKUP.sub(r"\\\g<0>", cell)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture file and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True, kw_only=True)
class Link:
    """A line that leads to another file."""

    path: Path
    text: str


@dataclass(frozen=True, kw_only=True)
class ForeignMarkdown:
    """Markdown of others, whose headings and relative links are fitted in.

    Args:
        folder: That its links start from.
        top: Number of ``#`` of its highest headings, which come right below those around them.
    """

    text: str
    folder: Path
    top: int = 1


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Parts that are shown when somebody asks for them; the summary, without markup, always is."""

    summary: str
    parts: Sequence[Part]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what is below it, in order; empty text is left out.

    A string is a paragraph or a list in Markdown.
    """

    title: str
    parts: Sequence[Part]


Part = str | Table | Picture | Link | ForeignMarkdown | Folded | Section


def write_document(document: Section, out: Path, *, html: bool) -> list[Path]:
    """Write a report, whose first heading is the document's.

    Args: html: Whether to write the same beside it as one HTML file that holds its pictures.
    Returns: the files.
    """
    text = to_markdown(document, out.parent)
    write_text(out, text)
    if not html:
        return [out]
    page = html_path(out)
    write_text(page, html_page(text, out.parent, title=document.title))
    return [out, page]


def html_path(out: Path) -> Path:
    """Where the HTML of a report is: beside its Markdown."""
    return out.with_name(f"{out.name.removesuffix('.md')}.html")


def to_markdown(document: Section, folder: Path) -> str:
    """The Markdown of a document, with links as they are from a folder."""
    return "\n\n".join(text for text in _blocks(document, folder.resolve(), 1) if text) + "\n"


def html_page(text: str, folder: Path, *, title: str) -> str:
    """Render Markdown as a whole HTML document.

    Args:
        folder: Where the Markdown file is: its pictures are read, and a link to the Markdown of
            another report leads to its HTML where there is one.
        title: Of the window.
    """
    parser = _parser()
    environment = {"folder": folder}
    tokens = parser.parse(text, environment)
    contents = _contents(tokens)
    body = parser.renderer.render(tokens, parser.options, environment)
    # The list of contents stands behind the first heading.
    head, heading, rest = body.partition("</h1>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html.escape(title)}</title>\n"
        f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<main>\n{head}{heading}\n{contents}{rest}</main>\n</body>\n</html>\n"
    )


def make_axes(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """A figure, inches, that is one plot."""
    figure = make_figure(width, height)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    return figure, axes


def make_figure(width: float, height: float, title: str = "", *, arranged: bool = True) -> Figure:
    """A figure, inches, with nothing but its title; no window and no global state.

    Args: arranged: Whether what is drawn is moved until nothing overlaps.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained" if arranged else None
    )
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def rows_height(count: int, inches: float) -> tuple[float, bool]:
    """How high so many rows are drawn, each of so many inches, and whether they keep their names:
    hundreds of classes lie close.
    """
    height = inches * count
    return (height, True) if height <= _MOST_INCHES else (_CLOSE_INCHES, False)


def plain(axes: Axes) -> None:
    """Take away the frame that says nothing."""
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path, *, photographs: bool = False) -> None:
    """Write a PNG of few colours, or a JPEG of photographs, which few colours would spoil, whole or
    not at all.
    """
    canvas: Any = figure.canvas  # of ``make_figure``
    with plain_words(figure):
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    dpi = (DOTS_PER_INCH, DOTS_PER_INCH)
    with whole_file(path) as beside:
        if photographs:
            image.save(beside, format="JPEG", quality=85, optimize=True, dpi=dpi)
        else:
            few = image.quantize(
                _COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
            )
            # A ninth level takes six times as long for files smaller by 8 %.
            few.save(beside, format="PNG", compress_level=6, dpi=dpi)


def _unbold(cell: str) -> str:
    return _BOLD.sub(r"\1", cell) if _BOLD.fullmatch(cell) else cell


def _is_number(cell: str) -> bool:
    return cell in _NO_NUMBER or cell.strip("*<±+- ")[:1].isdecimal()


def _escaped(cell: str) -> str:
    return literal(re.sub("\r\n|\r|\n", " ", cell)).replace("|", "\\|")


def _blocks(part: Part, folder: Path, level: int) -> Iterator[str]:
    if isinstance(part, Section):
        yield f"{'#' * min(level, 6)} {literal(part.title)}"
        for inner in part.parts:
            yield from _blocks(inner, folder, level + 1)
    elif isinstance(part, Folded):
        yield f"<details><summary>{html.escape(part.summary, quote=False)}</summary>"
        for inner in part.parts:
            yield from _blocks(inner, folder, level)
        yield "</details>"
    elif isinstance(part, Table):
        yield part.markdown()
    elif isinstance(part, Picture):
        yield f"![{_bracketed(part.caption)}]({_link(part.path, folder)})"
    elif isinstance(part, Link):
        yield f"[{_bracketed(part.text)}]({_link(part.path, folder)})"
    elif isinstance(part, ForeignMarkdown):
        yield _fitted(part, folder, level)
    else:
        yield part


def _link(target: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(target.resolve(), folder)).as_posix())


def _bracketed(text: str) -> str:
    return text.replace("[", "\\[").replace("]", "\\]")


def _fitted(part: ForeignMarkdown, folder: Path, level: int) -> str:
    """Markdown with its headings and relative links changed; code stays as it is."""

    def moved(match: re.Match[str]) -> str:
        target = match[1]
        if re.match(r"[a-z][a-z0-9+.-]*:|#|/", target):
            return match[0]
        return f"]({_link(part.folder / unquote(target), folder)})"

    lines, fenced = [], False
    for line in part.text.strip().splitlines():
        fenced ^= line.lstrip().startswith("```")
        if not fenced:
            line = re.sub(r"\]\(([^()\s]+)\)", moved, line)
            heading = re.match(r"(#+)( .*)", line)
            if heading:
                line = "#" * min(max(len(heading[1]) - part.top, 0) + level, 6) + heading[2]
        lines.append(line)
    return "\n".join(lines)


def _contents(tokens: Sequence[Token]) -> str:
    """Give headings names to jump to. Returns: a list of those of the second level."""
    items: list[str] = []
    for place, token in enumerate(tokens):
        if token.type != "heading_open":
            continue
        name = f"s{place}"
        token.attrSet("id", name)
        if token.tag == "h2":
            words = tokens[place + 1].children or []
            heading = html.escape("".join(word.content for word in words))
            items.append(f'<li><a href="#{name}">{heading}</a></li>')
    if len(items) < _MIN_CONTENTS:
        return ""
    return f'<nav aria-label="contents"><ul>{"".join(items)}</ul></nav>\n'


def _width(path: Path) -> int:
    """How wide a picture is shown, in CSS pixels of 1/96 inch, so that all have text of a size."""
    with Image.open(path) as picture:
        dots_per_inch = float(picture.info.get("dpi", (96, 96))[0])
        return round(picture.width * 96 / dots_per_inch)


@functools.cache
def _parser() -> MarkdownIt:
    """CommonMark with tables, and this module's ways to show some things."""
    return MarkdownIt("commonmark", {"html": True}, renderer_cls=_Renderer).enable("table")


class _Renderer(RendererHTML):
    """Shows pictures from their bytes, tables that scroll, and no HTML but folds."""

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A picture with its caption, or the caption alone where there is no such file."""
        token = tokens[idx]
        caption = html.escape(self.renderInlineAsText(token.children or [], options, env))
        source = str(token.attrGet("src") or "")
        path = Path(env["folder"]) / unquote(source)
        kind = _PICTURES.get(path.suffix.lower())
        if kind is None or not path.is_file():
            return f'<span class="missing">{caption} (no picture at {html.escape(source)})</span>'
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        return (
            f'<span class="picture"><img alt="{caption}" width="{_width(path)}"'
            f' src="data:{kind};base64,{data}">'
            f'<span class="caption">{caption}</span></span>'
        )

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A table that scrolls by itself where the window is narrow."""
        return f'<div class="table">{self.renderToken(tokens, idx, options, env)}'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"{self.renderToken(tokens, idx, options, env)}</div>"

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A link; to the HTML of another report where its Markdown is meant."""
        target = str(tokens[idx].attrGet("href") or "")
        page = f"{target.removesuffix('.md')}.html"
        if target.endswith(".md") and (Path(env["folder"]) / unquote(page)).is_file():
            tokens[idx].attrSet("href", page)
        return self.renderToken(tokens, idx, options, env)

    def html_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A fold; anything else as text."""
        content = tokens[idx].content.strip()
        fold = _FOLD.fullmatch(content)
        if fold:
            summary = html.escape(html.unescape(fold[1]))
            return f"<details><summary>{summary}</summary>\n"
        return "</details>\n" if content == "</details>" else f"<p>{html.escape(content)}</p>\n"

    def html_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return html.escape(tokens[idx].content)
