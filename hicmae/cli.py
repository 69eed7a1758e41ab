"""The command line: a verb is a function, and the function's signature is its options.

jsonargparse reads parameters, types and docstrings. ``--config FILE`` takes options from YAML, also
from the packaged ``configs/``; a misspelt name is answered with the nearest right one. What the
user can mend is one line on stderr and exit status 2; a bug, or anything with ``HICMAE_DEBUG=1``,
keeps its traceback. Help is fast where the module behind a verb imports what is heavy inside the
functions that need it; nothing else is done for it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import docstring_parser
import shtab
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, set_dumper

from hicmae import __version__
from hicmae.config import (
    config_path,
    did_you_mean,
    dump_yaml,
    from_dict,
    kind,
    load_yaml,
    merged,
    type_name,
    unknown_keys,
)
from hicmae.files import check_writable
from hicmae.processes import (
    ENDING,
    choose_threads,
    ending_in_order,
    keep_freed_memory,
    wait_passively,
)
from hicmae.registry import load_plugins
from hicmae.terminal import one_line, quieten, settle, user_message

# Options that take a YAML file of something else than options.
_FILES = ("benchmark", "model", "label_map", "steps")
_SHELLS = ("bash", "zsh", "tcsh")
set_dumper("yaml", dump_yaml)  # what --print_config prints
_ADDRESS = re.compile(r"((?:https?|ftp|s3a?|gc?s|hf|az|abfss?|hdfs|file):)/")
# The packages that are installed side by side, and where.
_ROOMS, _ROOT = ("hicmae", "shards", "pretrain", "finetune"), Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verb:
    """One command.

    Args:
        target: ``module:function`` behind it.
        help: One line for ``hicmae --help``.
        positional: Parameters given without ``--``, each with argparse's ``nargs``
            (``"1"``: exactly one, ``"?"``: one or none, ``"+"``: one or more).
        example: A command that somebody would type, shown under the options.
        computes: Whether a network runs in its process, over and over: see
            ``keep_freed_memory``, ``wait_passively`` and ``choose_threads``, whose option it has.
    """

    target: str
    help: str
    positional: Mapping[str, str] = dataclasses.field(default_factory=dict)
    example: str = ""
    computes: bool = False

    def function(self) -> Callable[..., Any]:
        """What the command calls, its module imported.

        Raises: ValueError: another module of that name, such as a user's own, is in the way.
        """
        module, _, name = self.target.partition(":")
        _require_own(module.partition(".")[0])
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function


@ending_in_order()
def dispatch(
    words: list[str],
    verbs: Mapping[str, Verb],
    renamed: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> int:
    """Run one command.

    Args:
        words: What was typed after the program's name.
        verbs: Name -> command; a name of two words is of a group.
        renamed: Name of a command -> its options that had another name once, see ``make_parser``.

    Returns: the exit status: the command's own (0 done), 2 bad input, 130 interrupted, 141 nobody
        reads what it says, 143 ended by SIGTERM, 129 by the end of its terminal.
    """
    debug = os.environ.get("HICMAE_DEBUG", "") not in ("", "0")
    name = ""
    try:
        settle()
        if words[:1] == ["--version"]:
            print(f"hicmae {__version__}")
            return 0
        name, rest = _split(words, verbs)
        if not name or name not in verbs:
            print(_overview(name, verbs))
            return 0
        verb = verbs[name]
        if not debug:
            quieten()
        if verb.computes:
            wait_passively()
        load_plugins()
        values = make_parser(name, verb, renamed.get(name, {})).keywords(rest)
        if verb.computes:
            if said := choose_threads(values.pop("threads")):
                print(said, file=sys.stderr)
            keep_freed_memory()
        status = verb.function()(**values)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"\n{_program(name)}: interrupted", file=sys.stderr)
        return 130
    except SystemExit as error:
        # What Lightning makes of Ctrl-C does not say so.
        if isinstance(error.__context__, KeyboardInterrupt):
            print(f"\n{_program(name)}: interrupted", file=sys.stderr)
            return 130
        for number in ENDING:
            if error.code == 128 + number:
                with suppress(OSError):  # the terminal may be gone
                    print(f"\n{_program(name)}: ended by {number.name}", file=sys.stderr)
                return int(error.code)
        raise
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); a later flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        message = user_message(error)
        if debug or message is None:
            raise
        # Settings that are one verb's name it.
        print(f"{_program(name)}: error: {message.removeprefix(f'{name}: ')}", file=sys.stderr)
        return 2
    return status if isinstance(status, int) and not isinstance(status, bool) else 0


def make_parser(
    name: str, verb: Verb, renamed: Mapping[str, str] = MappingProxyType({})
) -> _Parser:
    """The parser of one verb.

    Args:
        verb: Its function has parameters of plain types or dataclasses.
        renamed: Dotted old name -> dotted new one of options; an old one is refused with the new
            one named, unless the function still has it.
    """
    function, program, positional = verb.function(), _program(name), verb.positional
    words = "".join(f"{n.upper()}{' ...' if c == '+' else ''} " for n, c in positional.items())
    said = docstring_parser.parse(function.__doc__ or "")
    parser = _Parser(
        prog=program,
        usage=f"{program} {words}[--config FILE] [options]",
        description="\n\n".join(filter(None, (said.short_description, said.long_description))),
        exit_on_error=False,
        allow_abbrev=False,  # or a misspelt option that begins another one would be taken for it
    )
    parser.example, parser.renamed = verb.example, renamed
    parser.add_argument(
        "--config",
        action=_ConfigFile,
        metavar="FILE",
        help="YAML file of options; also one of the packaged configs/, from any folder. Later "
        "options override it.",
    )
    # jsonargparse runs `if TYPE_CHECKING:` blocks to make sense of annotations that are still text,
    # and with them imports that a help text need not wait for.
    function.__annotations__ = hints = get_type_hints(function)
    parser.parameters = [parameter for parameter in hints if parameter != "return"]
    texts = {item.arg_name: one_line(item.description or "") for item in said.params}
    for parameter, count in positional.items():
        hint = hints[parameter]
        # A list of paths takes one path a word.
        kind = get_args(hint)[0] if get_origin(hint) in (list, tuple) else hint
        number: Any = count if count == "+" else None
        action = parser.add_argument(parameter, type=kind, help=texts.get(parameter), nargs=number)
        # Not nargs="?": where no word is given, its default would replace what --config says.
        action.required = count != "?"
    parser.add_function_arguments(function, as_group=False, skip=set(positional))
    if verb.computes:
        parser.parameters.append("threads")
        parser.add_argument(
            "--threads",
            type=int | None,
            default=None,
            metavar="N",
            help="Threads of the network on a CPU; none given: one a core. Fewer are faster for a "
            "small network where other work keeps the cores busy.",
        )
    for action in parser.options().values():
        if _hint(action) is bool:
            action.nargs, action.const = "?", True  # `--resume` says the same as `--resume true`
    return parser


def completion_script(verbs: Mapping[str, Verb], shell: str) -> str:
    """A script that completes verbs and options with the tab key, without starting Python.

    shtab is given all verbs and groups as one plain parser. jsonargparse's own way to it has
    another name in each few of its versions, and offers values to bare flags.

    Raises: ValueError: Another shell.
    """
    if shell not in _SHELLS:
        raise ValueError(f"shell = {shell} (must be one of {', '.join(_SHELLS)})")
    root = argparse.ArgumentParser(prog="hicmae")
    root.add_argument("--version", action="store_true", help="Print the version")
    below: dict[tuple[str, ...], Any] = {(): root.add_subparsers()}
    parsers: dict[tuple[str, ...], argparse.ArgumentParser] = {(): root}
    for name, verb in verbs.items():
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
    for name, verb in verbs.items():
        path = tuple(name.split())
        for option, action in make_parser(name, verb).options().items():
            _copy_option(option, action, parsers[path])
        if path in below and verb.positional:
            below[path].complete = _words_or_paths(path, list(below[path].choices))
    return str(shtab.complete(root, shell=shell))


class _Parser(ArgumentParser):
    """A parser whose complaints are exceptions of one line, and whose help ends with an example."""

    example = ""
    renamed: Mapping[str, str] = MappingProxyType({})
    parameters: list[str]  # what the function takes, and the option threads
    flagged: Mapping[str, str] = MappingProxyType({})  # words behind bare flags -> these

    def keywords(self, arguments: list[str]) -> dict[str, Any]:
        """Turn command-line words into the function's keyword arguments.

        Raises: ValueError: an unknown option or key, a value of a wrong type, or something missing;
            a number that is none or infinite; an address where a path must be; a file on the way to
            ``out`` or ``json``. OSError: one of these cannot be written.
        """
        parsed = self.parse_args(self.prepared(arguments))
        # Before settings check their bounds: most comparisons with not-a-number are passed.
        if unfit := [f"{n} = {value}" for n, value in parsed.items() if not _is_finite(value)]:
            raise ValueError(f"{'; '.join(unfit)} (must be finite)")
        built = self.instantiate(parsed)
        for name in self.parameters:
            several = isinstance(built[name], list | tuple)
            for value in built[name] if several else [built[name]]:
                # As a path it has lost one of two slashes.
                if isinstance(value, Path) and (found := _ADDRESS.match(str(value))):
                    raise ValueError(
                        f"{name} = {found[1]}//{str(value)[found.end() :]} (must be a path on this "
                        "machine; copy from or to elsewhere yourself)"
                    )
                if name in ("out", "json") and isinstance(value, Path):  # else found out at the end
                    check_writable(value, folder=name == "out" and value.is_dir())
        return {name: built[name] for name in self.parameters}

    def options(self) -> dict[str, argparse.Action]:
        """Options by name with dashes, positional parameters by name alone."""
        return {(a.option_strings or [a.dest])[-1]: a for a in self._actions}

    def prepared(self, arguments: list[str]) -> list[str]:
        """The words to parse: a bare flag becomes ``--flag=true``, or it would swallow a
        positional word after it.

        Raises: ValueError: a word is the old name of an option; an empty one is given as a path,
            and would be the working folder.
        """
        options, words, before = self.options(), [], ""
        self.flagged = flagged = dict[str, str]()
        for word, after in zip(arguments, [*arguments, ""][1:], strict=True):
            name, equals, value = word.partition("=")
            given = before if not word else name if word.endswith("=") and not value else ""
            if not (word or given) or (given in options and _is_path(_hint(options[given]))):
                raise ValueError(
                    f"{given[2:] or 'argument'} = '' (must not be empty; a variable of the shell"
                    " may not be set)"
                )
            before = word if name in options and not equals else ""
            if name.startswith("--") and name[2:] in self.renamed and name not in options:
                new = self.renamed[name[2:]]
                raise ValueError(_is_now(name, f"--{new}", value if equals else after, " "))
            action = options.get(word)
            bare = action and _hint(action) is bool and after.lower() not in ("true", "false")
            if bare:
                flagged[after] = word[2:]
            words.append(f"{word}=true" if bare else word)
        return words

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:
        """The example is not wrapped, so that it can be copied."""
        text = super().format_help(formatter) if formatter else super().format_help()
        text = re.sub(r"<class\s+'([\w.]+)'>", r"\1", text)  # jsonargparse's word for some types
        return f"{text}\nexample:\n  {self.example}\n" if self.example else text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage and exiting."""
        unknown = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
        if unknown:
            message = self._unrecognised(unknown.group(1).split(" "))
        foreign = re.search(r'Parser key "([\w.]+)".* surrogates not allowed', message, re.DOTALL)
        if foreign:
            message = (
                f"{foreign[1]}: a name that is not UTF-8 cannot be typed here; give the folder in "
                "which it lies, or rename it (`convmv` does whole folders)"
            )
        misfit = re.match(r'Parser key "([\w.]+)":.*(?:Got|Given) value: (.*)', message, re.DOTALL)
        whole = re.match(r'Parser key "([\w.]+)":\s+Unable to load config (.*)', message)
        if whole:
            dest, value = whole.groups()
            message = f"{dest} = {value[1:-1]} (must be settings, each as --{dest}.NAME VALUE)"
        if misfit:
            message = self._misfit(misfit.group(1), misfit.group(2)) or message
        raise ValueError(one_line(message)) from ex

    def _unrecognised(self, words: list[str]) -> str:
        """Name the options that do not exist, each with the nearest one that does."""
        names = [word.split("=", 1)[0] for word in words if word.startswith("--")]
        if not names:
            if flag := self.flagged.get(words[0]):
                return f"{flag} = {words[0]} (must be true or false)"
            return f"unexpected argument '{' '.join(words)}'; `{self.prog} --help` lists them"
        known = [name[2:] for name in self.options() if name.startswith("--")]
        complaints = (f"no option '{n}'{did_you_mean(n[2:], known, at='--')}" for n in names)
        return f"{'; '.join(complaints)}; `{self.prog} --help` lists them"

    def _misfit(self, dest: str, value: str) -> str:
        """Say what an option takes, in words instead of type names."""
        found = (_hint(action) for action in self.options().values() if action.dest == dest)
        hint = next(found, None)
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
        assert isinstance(parser, _Parser)
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
        cfg[dest] = [*(cfg.get(dest) or []), str(path)]


def _unknown_keys(parser: _Parser, data: Mapping[Any, Any], at: str) -> Iterator[str]:
    """Say which keys of a file no option takes, and which have nothing where something must be:
    jsonargparse takes nothing for any option.
    """
    actions = {
        action.dest: action
        for action in parser.options().values()
        if action.dest.split(".")[-1] not in ("help", "config")
    }
    leaves = {dest: _settings_in(_hint(action)) for dest, action in actions.items()}
    groups = {leaf.rsplit(".", end)[0] for leaf in leaves for end in range(1, leaf.count(".") + 1)}
    unknown: list[str] = []
    for key, value in data.items():
        name = f"{at}{key}"
        once = any(old.startswith(f"{name}.") for old in parser.renamed)
        if name in groups or (once and name not in leaves and isinstance(value, Mapping)):
            if isinstance(value, Mapping):
                yield from _unknown_keys(parser, value, f"{name}.")
            elif not isinstance(value, str):  # which is the name of a file
                yield f"{name} is {kind(value)}, not a mapping of keys to values"
        elif name in leaves and (unfit := _unfit(actions[name], value)):
            yield f"{name} = {unfit}"
        elif name in leaves:
            settings = leaves[name]
            if settings and isinstance(value, Mapping):
                try:
                    from_dict(settings, value, name)
                except ValueError as error:
                    yield str(error)
        elif name in parser.renamed:
            yield _is_now(name, parser.renamed[name], value, ": ")
        else:
            unknown.append(str(key))
    below = [leaf[len(at) :] for leaf in {*leaves, *groups} if leaf.startswith(at)]
    complaints = unknown_keys(unknown, sorted({leaf.split(".")[0] for leaf in below}), at)
    others = [f"--{name}" for name in _FILES if f"--{name}" in parser.options()]
    if others and not at and 2 * len(unknown) > len(data):
        complaints[-1] += f"; or is it a file for {' or '.join(others)}?"
    yield from complaints


def _is_now(old: str, new: str, value: Any, between: str) -> str:
    """The complaint about an old name; of devices, a value has another name, too."""
    if value == "gpu":
        old, new = f"{old}{between}gpu", f"{new}{between}cuda"
    return f"'{old}' is now '{new}'"


def _hint(action: argparse.Action) -> Any:
    """The annotation behind an option, if it has one."""
    return getattr(action, "_typehint", None) or action.type


def _unfit(action: argparse.Action, value: Any) -> str:
    """A value of a file that jsonargparse takes for any option, or refuses in words of its own."""
    hint = _hint(action)
    # The default of what must be given is nothing too: it is asked for later.
    optional = action.default is None or hint in (None, Any) or type(None) in get_args(hint)
    if value is None and not optional:
        return f"null (must be {type_name(hint)})"
    if hint is Path and isinstance(value, int | float):
        return f"{value} (must be a path; put quotes around it)"
    return ""


def _is_finite(value: Any) -> bool:
    """Whether no number in a value is infinite or not a number."""
    if isinstance(value, float):
        return math.isfinite(value)
    below = value.values() if isinstance(value, Mapping) else value
    return not isinstance(value, Mapping | list | tuple) or all(map(_is_finite, below))


def _settings_in(hint: Any) -> type[Any] | None:
    """The settings dataclass that an annotation such as ``InputConfig | None`` allows."""
    for member in (hint, *get_args(hint)):
        if isinstance(member, type) and dataclasses.is_dataclass(member):
            return member
    return None


def _require_own(room: str) -> None:
    """Refuse to run another program's module that is found before this one's.

    Raises: ValueError: one is; where it lies, and what to do.
    """
    if room not in _ROOMS:
        return
    spec = importlib.util.find_spec(room)
    found = Path(spec.origin) if spec is not None and spec.origin else None
    if found is None or found.resolve() != (_ROOT / room / "__init__.py").resolve():
        raise ValueError(
            f"{found or room}: is found in place of this program's own module {room!r}; rename it, "
            "or take its folder out of PYTHONPATH, and do not stand in it with python -m hicmae"
        )


def _split(words: list[str], verbs: Mapping[str, Verb]) -> tuple[str, list[str]]:
    """Split into the verb (or a group such as ``shards``, when help is asked for) and the rest.

    Raises: ValueError: no such verb; the nearest one is named.
    """
    if not words or words[0] in ("-h", "--help"):
        return "", []
    group = words[0]
    if " ".join(words[:2]) in verbs:  # `pretrain plot` is not `pretrain` with a word too many
        return " ".join(words[:2]), words[2:]
    if group in verbs:
        return group, words[1:]
    members = [verb.split()[1] for verb in verbs if verb.startswith(f"{group} ")]
    if not members:
        raise ValueError(_no_verb(group, sorted({verb.split()[0] for verb in verbs})))
    if len(words) == 1 or words[1] in ("-h", "--help"):
        return group, []
    if words[1] not in members:
        raise ValueError(f"{group}: {_no_verb(words[1], members)}")
    return f"{group} {words[1]}", words[2:]


def _no_verb(word: str, known: list[str]) -> str:
    return f"no verb '{word}'{did_you_mean(word, known)} (verbs: {', '.join(known)})"


def _overview(group: str, verbs: Mapping[str, Verb]) -> str:
    """The list of verbs, or of one group of them."""
    shown = {name: verb for name, verb in verbs.items() if name.startswith(group)}
    width = max(map(len, shown)) + 2
    lines = [f"  {name:<{width}}{verb.help}" for name, verb in shown.items()]
    return "\n".join(
        [
            f"usage: {_program(group)} VERB [options]",
            "",
            "Audio-visual emotion recognition: HiCMAE pretraining, fine-tuning and reports.",
            "",
            "verbs:",
            *lines,
            "",
            "`hicmae VERB --help` lists a verb's options; `--config FILE` reads them from YAML,",
            "`--print_config` prints them. HICMAE_DEBUG=1 shows tracebacks and every warning.",
        ]
    )


def _program(name: str) -> str:
    """The command as the user typed it, without options."""
    return f"hicmae {name}".strip()


def _words_or_paths(path: tuple[str, ...], words: list[str]) -> dict[str, Any]:
    """What completes a word that is a verb or a path, as shtab wants it."""
    function = f"_hicmae_{'_'.join(path)}_files_and_verbs"
    listing = f'compgen -W "{" ".join(words)}" -- "$1"; compgen -f -- "$1"'
    return {"bash": function, "preamble": {"bash": f"{function}() {{ {listing}; }}"}}


def _copy_option(name: str, action: argparse.Action, target: argparse.ArgumentParser) -> None:
    """Give a plain parser an option of a verb's, with its choices."""
    if name == "--help" or action.help == argparse.SUPPRESS:
        return
    optional, hint = name.startswith("--"), _hint(action)
    # The beginning of the text, without what argparse would take for a format.
    text = (action.help or "").split(". ")[0].split("; ")[0].replace("%", "%%")
    # A flag takes a value or none; completing a value for it would get in the way.
    if hint is bool or (optional and action.nargs == 0):
        target.add_argument(name, action="store_true", help=text)
        return
    copied = target.add_argument(
        name,
        help=text,
        choices=list(map(str, get_args(hint))) if get_origin(hint) is Literal else None,
        nargs=None if optional else action.nargs,
    )
    if _is_path(hint) or action.dest == "config":
        copied.complete = shtab.FILE  # type: ignore[attr-defined]


def _is_path(hint: Any) -> bool:
    """Whether an annotation is a path, or allows one, or a list of them."""
    return hint is Path or any(_is_path(member) for member in get_args(hint))
