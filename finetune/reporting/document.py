"""A report as data: sections of text, tables and pictures, in Markdown and in one HTML file.

For: saying a thing once and reading it in two formats; the HTML is made of the Markdown. Not for:
what a report says, or how the HTML looks (``finetune/reporting/page.py``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from finetune.record import write_text
from finetune.reporting.page import html_page
from finetune.reporting.tables import Table


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
class Prepared:
    """Markdown of others, whose headings and relative links are fitted in.

    Args:
        text: The Markdown.
        folder: That its links start from.
        top: Number of ``#`` of its highest headings, which come right below those around them.
    """

    text: str
    folder: Path
    top: int = 1


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Parts that are shown when somebody asks for them.

    Args:
        summary: What is always shown; no markup.
        parts: The rest.
    """

    summary: str
    parts: Sequence[Part]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and what is below it.

    Args:
        title: The heading.
        parts: In order; empty text is left out. A string is a paragraph or a list in Markdown.
    """

    title: str
    parts: Sequence[Part]


Part = str | Table | Picture | Link | Prepared | Folded | Section


def write_document(document: Section, out: Path, *, html: bool) -> list[Path]:
    """Write a report.

    Args:
        document: Its first heading and all the rest.
        out: Markdown file.
        html: Whether to write the same beside it as one HTML file that holds its pictures.

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


def _blocks(part: Part, folder: Path, level: int) -> Iterator[str]:
    """The paragraphs of a part; its headings begin at a level."""
    if isinstance(part, Section):
        yield f"{'#' * min(level, 6)} {part.title}"
        for inner in part.parts:
            yield from _blocks(inner, folder, level + 1)
    elif isinstance(part, Folded):
        yield f"<details><summary>{part.summary}</summary>"
        for inner in part.parts:
            yield from _blocks(inner, folder, level)
        yield "</details>"
    elif isinstance(part, Table):
        yield part.markdown()
    elif isinstance(part, Picture):
        yield f"![{_bracketed(part.caption)}]({_link(part.path, folder)})"
    elif isinstance(part, Link):
        yield f"[{_bracketed(part.text)}]({_link(part.path, folder)})"
    elif isinstance(part, Prepared):
        yield _fitted(part, folder, level)
    else:
        yield part


def _link(target: Path, folder: Path) -> str:
    """A link from a folder to a file."""
    return quote(Path(os.path.relpath(target.resolve(), folder)).as_posix())


def _bracketed(text: str) -> str:
    """Text that cannot end the bracket it stands in."""
    return text.replace("[", "\\[").replace("]", "\\]")


def _fitted(part: Prepared, folder: Path, level: int) -> str:
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
