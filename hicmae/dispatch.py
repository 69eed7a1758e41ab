"""From the words of a command to its function, and what a user sees when something goes wrong.

For: finding the verb, turning a function's signature into options (``hicmae/commands.py`` makes the
parser), and errors: one line on stderr and exit status 2 for what the user can mend, a traceback
only for a bug (or with ``HICMAE_DEBUG=1``). Not for: which verbs there are, which
``hicmae/__main__.py`` says.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from hicmae import __version__


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One command.

    Args:
        target: ``module:function`` behind it.
        help: One line for ``hicmae --help``.
        positional: Parameters given without ``--``, each with argparse's ``nargs``
            (``"1"``: exactly one, ``"+"``: one or more).
        example: A command that somebody would type, shown under the options.
        computes: Whether a network runs in its process, over and over: see
            ``hicmae/allocator.py``.
    """

    target: str
    help: str
    positional: dict[str, str] = field(default_factory=dict)
    example: str = ""
    computes: bool = False


def dispatch(words: list[str], verbs: Mapping[str, Verb]) -> int:
    """Run one command.

    Args:
        words: What was typed after the program's name.
        verbs: Name -> command; a name of two words is of a group.

    Returns: the exit status (0 done, 2 bad input, 130 interrupted).
    """
    debug = os.environ.get("HICMAE_DEBUG", "") not in ("", "0")
    name = ""
    try:
        if words[:1] == ["--version"]:
            print(f"hicmae {__version__}")
            return 0
        name, rest = _split(words, verbs)
        if not name or name not in verbs:
            print(_overview(name, verbs))
            return 0
        status = _run(name, verbs[name], rest, debug)
        sys.stdout.flush()
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"\n{_program(name)}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); a later flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        from hicmae.terminal import user_message

        message = user_message(error)
        if debug or message is None:
            raise
        print(f"{_program(name)}: error: {message}", file=sys.stderr)
        return 2
    return status


def _run(name: str, verb: Verb, rest: list[str], debug: bool) -> int:
    """Parse the options of a verb, then import its function and call it."""
    from hicmae.allocator import keep_freed_memory
    from hicmae.commands import parse
    from hicmae.signature import load_function, load_signature
    from hicmae.terminal import quieten

    if not debug:
        quieten()
    values = parse(
        load_signature(verb.target),
        rest,
        program=_program(name),
        positional=verb.positional,
        example=verb.example,
    )
    if verb.computes:
        keep_freed_memory()
    status = load_function(verb.target)(**values)
    return status if isinstance(status, int) and not isinstance(status, bool) else 0


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
    """The complaint about an unknown verb."""
    from hicmae.plain import did_you_mean

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
