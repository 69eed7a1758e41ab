"""A verb's signature without what its work needs.

For: help, completion and the check of options in a moment: of the module behind a verb, only the
function's own lines and what its annotations, defaults and decorators name are run, so that
neither PyTorch nor Lightning is imported to print a help text. Not for: running a verb, which
imports its module as usual.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


def load_function(target: str) -> Callable[..., Any]:
    """The function behind a verb, with everything that it needs.

    Args:
        target: ``module:function``.
    """
    module, _, name = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def load_signature(target: str) -> Callable[..., Any]:
    """A function with the signature and docstring of the one behind a verb, and nothing in it.

    What it parses to may be given to the real one: settings come from the modules that define
    them. Where the signature needs a class of the verb's own module, or there is no source, or
    the module is imported already, this is the real function.

    Args:
        target: ``module:function``.
    """
    module, _, name = target.partition(":")
    spec = None if module in sys.modules else importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return load_function(target)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"), spec.origin)
    kept = _needed(tree, name)
    if not kept or any(isinstance(node, ast.ClassDef) for node in kept):
        return load_function(target)
    # Under a name of its own: get_type_hints and jsonargparse look annotations up in sys.modules.
    part = ModuleType(f"signature_of_{module.replace('.', '_')}")
    part.__file__ = spec.origin
    sys.modules[part.__name__] = part
    code = ast.fix_missing_locations(ast.Module(body=kept, type_ignores=[]))
    exec(compile(code, spec.origin, "exec"), vars(part))
    function: Callable[..., Any] = getattr(part, name)
    return function


def _needed(tree: ast.Module, name: str) -> list[ast.stmt]:
    """Statements of a module that a function's signature needs, in their order.

    Returns: the imports (of the needed names alone), assignments and definitions, and the function
        itself with its docstring as its body; nothing if there is no such function.
    """
    binding = {word: node for node in tree.body for word in _bound(node)}
    function = binding.get(name)
    if not isinstance(function, ast.FunctionDef):
        return []
    docstring = function.body[:1] if ast.get_docstring(function) else []
    function.body = [*docstring, ast.Pass()]
    names: set[str] = set()
    waiting = [name]
    while waiting:
        word = waiting.pop()
        if word in binding and word not in names:
            names.add(word)
            waiting += _named(binding[word])
    kept: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            kept.append(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [alias for alias in node.names if _bound_by(alias) in names]
            kept += [node] if node.names else []
        elif names & set(_bound(node)):
            kept.append(node)
    return kept


def _bound(node: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top of a module defines."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from map(_bound_by, node.names)
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            yield from _named(target)


def _bound_by(alias: ast.alias) -> str:
    """The name that an import gives."""
    return alias.asname or alias.name.split(".")[0]


def _named(node: ast.AST) -> list[str]:
    """Every name that appears in a piece of code."""
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
