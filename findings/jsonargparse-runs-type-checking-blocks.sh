#!/usr/bin/env bash
# jsonargparse executes `if TYPE_CHECKING:` blocks of the module behind a command line.
#
# One would guess: a block under `typing.TYPE_CHECKING` never runs, so that what is imported there
# for type checkers costs nothing at run time, the help text included.
# What happens: where a function's annotations are still text (`from __future__ import
# annotations`), adding its arguments to a parser runs the bodies of such blocks, with every import
# in them; also of names that the function's own signature does not mention. With annotations that
# were resolved before (`function.__annotations__ = typing.get_type_hints(function)`) it does not.
# Versions: jsonargparse 4.53.0.
# Why it matters here: the help of `hicmae predict` imported PyTorch, because its module names a
# class of results for type checkers alone; hicmae/cli.py resolves annotations first (tested).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check 'jsonargparse[signatures]==4.53.0'

cat > heavy.py <<'PY'
"""Stands for a library that takes long to import."""

print("heavy was imported")


class Network:
    pass
PY
cat > verb.py <<'PY'
"""A command whose signature has plain types only."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heavy import Network


def verb(*, steps: int = 1) -> int:
    """Do something.

    Args:
        steps: How often.
    """
    return steps


def helper(network: Network) -> None:
    """Used by the command later on."""
PY
cat > show.py <<'PY'
import sys
from importlib.metadata import version
from typing import get_type_hints

from jsonargparse import ArgumentParser

import verb

print("jsonargparse", version("jsonargparse"), "- imported with the module:", "heavy" in sys.modules)
if "resolved" in sys.argv:
    verb.verb.__annotations__ = get_type_hints(verb.verb)
ArgumentParser().add_function_arguments(verb.verb, as_group=False)
print("imported by the parser:", "heavy" in sys.modules)
PY

plain=$(venv/bin/python show.py)
resolved=$(venv/bin/python show.py resolved)
printf 'annotations as text:\n%s\n\nannotations resolved before:\n%s\n' "$plain" "$resolved"
grep -q 'imported with the module: False' <<<"$plain"
grep -q 'imported by the parser: True' <<<"$plain"
grep -q 'imported by the parser: False' <<<"$resolved"
