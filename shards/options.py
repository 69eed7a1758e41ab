"""The fields of a settings dataclass as options of a command.

For: commands whose options are the fields of a settings class, so that names, kinds, defaults and
texts are written once. Not for: parsing (``hicmae/commands.py`` reads the signature made here).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import docstring_parser


def with_options_of(settings: type[Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace the parameter ``config`` of a command by one option for each field of ``settings``.

    The command's own parameters come first, and its Args are followed by those of the settings.

    Args:
        settings: A dataclass whose fields all have defaults and are documented under Args.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(command)
        hints, field_hints = get_type_hints(command), get_type_hints(settings)
        fields = [field.name for field in dataclasses.fields(settings)]

        @functools.wraps(command)
        def command_of_fields(**given: Any) -> Any:
            config = settings(**{name: given.pop(name) for name in fields if name in given})
            return command(config=config, **given)

        parameters = [
            parameter.replace(annotation=hints[name])
            for name, parameter in own.parameters.items()
            if name != "config"
        ] + [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field_hints[field.name],
            )
            for field in dataclasses.fields(settings)
        ]
        result = hints.get("return", inspect.Signature.empty)
        del command_of_fields.__wrapped__  # its signature is not this one's
        command_of_fields.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            parameters, return_annotation=result
        )
        command_of_fields.__annotations__ = {item.name: item.annotation for item in parameters}
        command_of_fields.__annotations__["return"] = result
        command_of_fields.__doc__ = _joined(command, settings)
        return command_of_fields

    return decorate


def _joined(command: Callable[..., Any], settings: type[Any]) -> str:
    """The command's docstring with the settings' Args behind its own."""
    parsed = docstring_parser.parse(inspect.getdoc(command) or "")
    texts = docstring_parser.parse(inspect.getdoc(settings) or "")
    lines = [parsed.short_description or "", "", parsed.long_description or "", "", "Args:"]
    own = (item for item in parsed.params if item.arg_name != "config")
    for item in (*own, *texts.params):
        text = " ".join((item.description or "").replace("``", "").split())
        lines.append(f"    {item.arg_name}: {text}")
    return "\n".join(lines) + "\n"
