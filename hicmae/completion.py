"""Completion of verbs and options with the tab key, for bash, zsh and tcsh.

For: ``hicmae completion SHELL``, whose output a shell reads once; completing then starts no
Python. Not for: the options themselves, which are read from the functions behind the verbs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import shtab

_SHELLS = ("bash", "zsh", "tcsh")


def completion(*, shell: str) -> None:
    """Print a script that completes verbs and options in your shell.

    bash: `hicmae completion bash > ~/.local/share/bash-completion/completions/hicmae`; zsh: write
    it to a file `_hicmae` in a folder of `$fpath`. Write it again after an upgrade.

    Args:
        shell: bash, zsh or tcsh.

    Raises:
        ValueError: Another shell.
    """
    if shell not in _SHELLS:
        raise ValueError(f"shell = {shell} (must be one of {', '.join(_SHELLS)})")
    print(shtab.complete(_whole_parser(), shell=shell))


def _whole_parser() -> argparse.ArgumentParser:
    """All verbs and groups as one plain parser, which is what shtab reads."""
    from hicmae.__main__ import VERBS
    from hicmae.commands import make_parser
    from hicmae.signature import load_signature

    root = argparse.ArgumentParser(prog="hicmae")
    root.add_argument("--version", action="store_true", help="Print the version")
    below: dict[tuple[str, ...], Any] = {(): root.add_subparsers()}
    parsers: dict[tuple[str, ...], argparse.ArgumentParser] = {(): root}
    for name, verb in VERBS.items():
        path = tuple(name.split())
        for depth in range(1, len(path) + 1):
            part, above = path[:depth], path[: depth - 1]
            if part in parsers:
                continue
            if above not in below:
                below[above] = parsers[above].add_subparsers()
            text = verb.help if part == path else f"{part[-1]} …"
            parsers[part] = below[above].add_parser(part[-1], help=text)
    # When all are there: the verbs below a verb stand where it takes its first path.
    for name, verb in VERBS.items():
        target, path = load_signature(verb.target), tuple(name.split())
        _copy_options(
            make_parser(target, program=f"hicmae {name}", positional=verb.positional), parsers[path]
        )
        if path in below and verb.positional:
            below[path].complete = _words_or_paths(path, list(below[path].choices))
    return root


def _words_or_paths(path: tuple[str, ...], words: list[str]) -> dict[str, Any]:
    """What completes a word that is a verb or a path, as shtab wants it."""
    function = f"_hicmae_{'_'.join(path)}_files_and_verbs"
    listing = f'compgen -W "{" ".join(words)}" -- "$1"; compgen -f -- "$1"'
    return {"bash": function, "preamble": {"bash": f"{function}() {{ {listing}; }}"}}


def _copy_options(source: argparse.ArgumentParser, target: argparse.ArgumentParser) -> None:
    """Give a plain parser the options of a verb's, with their choices."""
    for action in source._actions:
        options = [option for option in action.option_strings if option.startswith("--")]
        if "--help" in options or action.help == argparse.SUPPRESS:
            continue
        names = options or [action.dest]
        # A flag takes a value or none; completing a value for it would get in the way.
        hint = getattr(action, "_typehint", None) or action.type
        flag = hint is bool or (options and action.nargs == 0)
        text = _first_sentence(action.help or "")
        if flag:
            target.add_argument(*names, action="store_true", help=text)
            continue
        copied = target.add_argument(
            *names, help=text, choices=_choices(hint), nargs=action.nargs if not options else None
        )
        if _is_path(hint) or action.dest == "config":
            copied.complete = shtab.FILE  # type: ignore[attr-defined]


def _choices(hint: Any) -> list[str] | None:
    """The words that an option takes, if they can be listed."""
    if get_origin(hint) is Literal:
        return [str(word) for word in get_args(hint)]
    return None


def _is_path(hint: Any) -> bool:
    """Whether an annotation is a path, or allows one, or a list of them."""
    return hint is Path or any(_is_path(member) for member in get_args(hint))


def _first_sentence(text: str) -> str:
    """The beginning of a help text, without what argparse would take for a format."""
    return text.split(". ")[0].split("; ")[0].replace("%", "%%")
