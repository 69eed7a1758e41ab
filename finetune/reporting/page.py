"""Markdown as one HTML file with its pictures inside.

For: a report that can be mailed: nothing in it is fetched from anywhere. Not for: what a report
says; the Markdown is all there is to it.

Text that looks like HTML is shown as text, but for the folds that reports are written with.
"""

from __future__ import annotations

import base64
import functools
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from PIL import Image

_STYLE = Path(__file__).with_name("page.css")
_PICTURES = {".png": "image/png", ".jpg": "image/jpeg"}
_FOLD = re.compile(r"<details><summary>([^<>]*)</summary>")
# A page with fewer headings needs no list of them.
_MIN_CONTENTS = 4


def html_page(text: str, folder: Path, *, title: str) -> str:
    """Render a page.

    Args:
        text: Markdown.
        folder: Where the Markdown file is: its pictures are read, and a link to the Markdown of
            another report leads to its HTML where there is one.
        title: Of the window.

    Returns: a whole HTML document.
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


def _contents(tokens: Sequence[Token]) -> str:
    """Give headings names to jump to. Returns: a list of those of the second level."""
    items: list[str] = []
    for place, token in enumerate(tokens):
        if token.type != "heading_open":
            continue
        name = f"s{place}"
        token.attrSet("id", name)
        if token.tag == "h2":
            heading = html.escape(tokens[place + 1].content)
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
        """Its end."""
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
        """As text."""
        return html.escape(tokens[idx].content)
