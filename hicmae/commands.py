"""A function's signature as a command line.

For: the parser of a verb (jsonargparse reads parameters, types and docstrings), packaged
configurations behind ``--config``, and misspelt names with the nearest right one. Not for: which
verbs there are (``hicmae/__main__.py``).
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from hicmae.config import config_path, did_you_mean, from_dict, load_yaml
from hicmae.plain import merged, type_name
from hicmae.terminal import one_line


def parse(
    function: Callable[..., Any],
    arguments: list[str],
    *,
    program: str,
    positional: Mapping[str, str],
    example: str = "",
) -> dict[str, Any]:
    """Turn command-line words into the keyword arguments of a function.

    Args:
        function: The function behind a verb; its parameters are plain types or dataclasses.
        arguments: The words after the verb.
        program: The verb as typed, for messages.
        positional: Parameters given without ``--``, with how many (``"1"`` or ``"+"``).
        example: A command that its help ends with.

    Raises: ValueError: an unknown option or key, a value of a wrong type, or something missing.
    """
    parser = make_parser(function, program=program, positional=positional, example=example)
    chosen = parser.parse_args(_flags_with_values(parser, arguments))
    built = parser.instantiate(chosen)
    return {name: built[name] for name in _parameters(function)}


def make_parser(
    function: Callable[..., Any],
    *,
    program: str,
    positional: Mapping[str, str],
    example: str = "",
) -> ArgumentParser:
    """The parser of one verb; see ``parse``."""
    parser = _Parser(
        prog=program,
        usage=f"{program} {_words(positional)}[--config FILE] [options]",
        description=_summary(function),
        exit_on_error=False,
        allow_abbrev=False,  # or a misspelt option that begins another one would be taken for it
    )
    parser.example = example
    parser.add_argument(
        "--config",
        action=_ConfigFile,
        metavar="FILE",
        help="YAML file of options; also one of the packaged configs/, from any folder. Later "
        "options override it.",
    )
    hints, texts = get_type_hints(function), _parameter_texts(function)
    for name, count in positional.items():
        hint = hints[name]
        # A list of paths takes one path a word.
        kind = get_args(hint)[0] if get_origin(hint) in (list, tuple) else hint
        number: Any = None if count == "1" else count
        parser.add_argument(name, type=kind, help=texts.get(name, ""), nargs=number)
    parser.add_function_arguments(function, as_group=False, skip=set(positional))
    for action in parser._actions:
        if _hint(action) is bool:
            action.nargs, action.const = "?", True  # `--resume` says the same as `--resume true`
    return parser


class _Parser(ArgumentParser):
    """A parser whose complaints are exceptions of one line, and whose help ends with an example."""

    example = ""

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The example is not wrapped, so that it can be copied."""
        text = super().format_help(formatter) if formatter else super().format_help()
        return f"{text}\nexample:\n  {self.example}\n" if self.example else text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        unknown = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
        if unknown:
            message = self._unrecognised(unknown.group(1).split(" "))
        misfit = re.match(r'Parser key "([\w.]+)":.*(?:Got|Given) value: (.*)', message, re.DOTALL)
        if misfit:
            message = self._misfit(misfit.group(1), misfit.group(2)) or message
        raise ValueError(one_line(message)) from ex

    def _unrecognised(self, words: list[str]) -> str:
        """Name the options that do not exist, each with the nearest one that does."""
        options = [word for word in words if word.startswith("--")]
        if not options:
            return f"unexpected argument '{' '.join(words)}'; `{self.prog} --help` lists them"
        known = [option for option in self._option_string_actions if option.startswith("--")]
        complaints = []
        for option in options:
            name = option.split("=", 1)[0]
            complaints.append(f"no option '{name}'{did_you_mean(name, known)}")
        return f"{'; '.join(complaints)}; `{self.prog} --help` lists them"

    def _misfit(self, dest: str, value: str) -> str:
        """Say what an option takes, in words instead of type names."""
        hint = next((_hint(action) for action in self._actions if action.dest == dest), None)
        nested = re.match(r"NestedArg\(key='([\w.]+)', val='?(.*?)'?\)$", value)
        settings = _settings_in(hint)
        if nested and settings:
            key, value = nested.groups()
            hint = get_type_hints(settings).get(key)
            if hint is None:
                remedy = did_you_mean(key, get_type_hints(settings), at=f"--{dest}.")
                return f"no option '--{dest}.{key}'{remedy}"
            dest = f"{dest}.{key}"
        return f"{dest} = {value} (must be {type_name(hint)})" if hint else ""


class _ConfigFile(ActionConfigFile):
    """``--config``: a path or a packaged file, its keys checked before its values."""

    @staticmethod
    def apply_config(parser: ArgumentParser, cfg: Namespace, dest: str, value: Any) -> None:
        """Merge a file into what is already set; paths inside are relative to where the user is,
        not to the file.
        """
        path = config_path(value)
        data = load_yaml(path)
        problems = list(_unknown_keys(parser, data, ""))
        if problems:
            raise ValueError(f"{path}: {'; '.join(problems)}")
        try:
            given = parser.parse_object(
                data, env=False, defaults=False, _skip_validation=True, _skip_required=True
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        # Settings groups are laid over one another key by key; so are options that are mappings.
        for name, value in data.items():
            before = cfg.get(name)
            if isinstance(value, Mapping) and isinstance(before, dict):
                given[name] = merged(before, value)
        cfg.update(given)
        files = cfg.get(dest) or []
        cfg[dest] = [*files, str(path)]


def _unknown_keys(parser: ArgumentParser, data: Mapping[Any, Any], at: str) -> Iterator[str]:
    """Say which keys of a file no option takes."""
    leaves = {
        action.dest: _settings_in(_hint(action))
        for action in parser._actions
        if action.dest.split(".")[-1] not in ("help", "config")
    }
    groups = {leaf.rsplit(".", end)[0] for leaf in leaves for end in range(1, leaf.count(".") + 1)}
    for key, value in data.items():
        name = f"{at}{key}"
        if name in groups:
            if isinstance(value, Mapping):
                yield from _unknown_keys(parser, value, f"{name}.")
        elif name in leaves:
            settings = leaves[name]
            if settings and isinstance(value, Mapping):
                try:
                    from_dict(settings, value, name)
                except ValueError as error:
                    yield str(error)
        else:
            below = [leaf[len(at) :] for leaf in {*leaves, *groups} if leaf.startswith(at)]
            known = sorted({leaf.split(".")[0] for leaf in below})
            remedy = did_you_mean(str(key), known, at=at) or f"; known keys: {', '.join(known)}"
            yield f"unknown key '{name}'{remedy}"


def _hint(action: argparse.Action) -> Any:
    """The annotation behind an option, if it has one."""
    return getattr(action, "_typehint", None) or action.type


def _settings_in(hint: Any) -> type[Any] | None:
    """The settings dataclass that an annotation such as ``InputConfig | None`` allows."""
    for member in (hint, *get_args(hint)):
        if isinstance(member, type) and dataclasses.is_dataclass(member):
            return member
    return None


def _flags_with_values(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Write a bare flag as ``--flag=true``, or it would swallow a positional word after it."""
    flags = {
        option for option, action in parser._option_string_actions.items() if _hint(action) is bool
    }
    following = [*arguments, ""][1:]
    return [
        f"{word}=true" if word in flags and after.lower() not in ("true", "false") else word
        for word, after in zip(arguments, following, strict=True)
    ]


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Names of a function's parameters."""
    hints = get_type_hints(function)
    return [name for name in hints if name != "return"]


def _summary(function: Callable[..., Any]) -> str:
    """What a function's docstring says before its Args."""
    parsed = docstring_parser.parse(function.__doc__ or "")
    return "\n\n".join(filter(None, (parsed.short_description, parsed.long_description)))


def _parameter_texts(function: Callable[..., Any]) -> dict[str, str]:
    """What a function's docstring says about each parameter."""
    parsed = docstring_parser.parse(function.__doc__ or "")
    return {item.arg_name: one_line(item.description or "") for item in parsed.params}


def _words(positional: Mapping[str, str]) -> str:
    """Positional parameters for the usage line."""
    return "".join(
        f"{name.upper()}{' ...' if count == '+' else ''} " for name, count in positional.items()
    )
