"""Settings: YAML files, the packaged ``configs/``, model sizes, and dataclasses out of plain data.

Dataclasses are built by ``from_dict`` here and not by pydantic. Its strict reading of JSON takes
lists for tuples and text for paths and refuses '3' and true for 3, as is wanted here; but it passes
over unknown keys unless every dataclass, nested ones too, says otherwise, takes true for a literal
1, and each of its messages would have to be written anew in a reader's words.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from hicmae.files import write_text
from hicmae.settings import ModelConfig

Settings = TypeVar("Settings")


def config_root() -> Path:
    """Folder of the packaged configurations.

    Beside this file in an installed package (``hicmae.configs``); in a clone and in an editable
    install it is the top-level ``configs/``.
    """
    here = Path(__file__).resolve().parent
    installed = here / "configs"
    return installed if installed.is_dir() else here.parent / "configs"


def config_path(name_or_path: str | Path) -> Path:
    """Find a configuration: an existing path, or else a file of the packaged ``configs/``.

    ``configs/model/tiny.yaml`` and ``model/tiny.yaml`` are found from any directory.

    Raises: FileNotFoundError: neither exists; the nearest packaged file is named.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    root = config_root()
    if not path.is_absolute():
        inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
        if (root / inside).is_file():
            return root / inside
    packaged = [f"configs/{file.relative_to(root).as_posix()}" for file in root.rglob("*.yaml")]
    remedy = did_you_mean(str(name_or_path), packaged) or "; check the path"
    what = "is a folder, not a file" if path.is_dir() else "no such configuration file"
    raise FileNotFoundError(f"{name_or_path}: {what}{remedy}")


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping; an empty file is an empty mapping.

    ``1e-4`` is a number here, and a key given twice is refused.

    Raises: FileNotFoundError: no such file. ValueError: not YAML, or not a mapping; the message
    says at which line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file ({error.reason} at {error.start})") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError, KeyError, AttributeError) as error:
        # The last three are PyYAML's of a tag on what it does not fit, such as `!!bool maybe`.
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path}: holds {kind(data)}, not a mapping of keys to values")
    return data


def save_yaml(path: str | Path, data: Any) -> None:
    """Write settings (a dictionary or a dataclass) as YAML, whole or not at all."""
    write_text(Path(path), dump_yaml(to_dict(data)))


def dump_yaml(data: Any) -> str:
    """Plain data as the YAML that ``load_yaml`` reads as the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_model_config(name_or_path: str | Path) -> ModelConfig:
    """Read a model size: a name out of ``configs/model/`` (``tiny``) or a YAML file.

    Raises: ValueError: no such size, or a file that is not one. FileNotFoundError: no such file.
    """
    name = str(name_or_path)
    if re.fullmatch(r"[\w-]+", name) and not Path(name).is_file():
        sizes = sorted(file.stem for file in (config_root() / "model").glob("*.yaml"))
        if name not in sizes:
            raise ValueError(
                f"model '{name}': no such size (sizes: {', '.join(sizes)}; or give a YAML file)"
            )
        name = f"configs/model/{name}.yaml"
    path = config_path(name)
    return from_dict(ModelConfig, load_yaml(path), str(path))


def choose_model(model: str | dict[str, Any] = "base") -> ModelConfig:
    """Turn a ``model`` setting into sizes.

    Args: model: A name out of ``configs/model/`` or a YAML file; or a mapping of sizes, in which
        ``size`` is the name or file to start from and the others change it. Without ``size`` every
        size must be given: a change must know what it changes.

    Raises:
        ValueError: An unknown name, key or value, or changes without ``size``.
        FileNotFoundError: No such file.
    """
    if isinstance(model, str):
        return load_model_config(model)
    changes = _typed(model)
    size = changes.pop("size", None)
    if size is None:
        fields = [item.name for item in dataclasses.fields(ModelConfig)]
        missing = [name for name in fields if name not in changes]
        if missing:
            raise ValueError(
                f"model: {', '.join(changes)} given, but not what to start from; name a size with "
                "--model.size (tiny, small, base, or a YAML file)"
            )
        return from_dict(ModelConfig, changes, "model")
    start = to_dict(load_model_config(str(size)))
    return from_dict(ModelConfig, merged(start, changes), "model")


def leaves(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names: ``optimizer.betas``, ``(0.9, 0.999)``."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{at}{name}.")
        else:
            yield f"{at}{name}", value


def to_dict(obj: Any) -> Any:
    """Turn settings into what YAML and JSON can hold: dataclasses to dictionaries, tuples to
    lists, paths to strings, NumPy scalars to numbers.

    A field with ``omit_default`` in its metadata is left out where it holds its default, so that
    a setting that came later changes neither digests nor files of those who do not use it.

    Raises: TypeError: something that no configuration holds.
    """
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {
            item.name: to_dict(getattr(obj, item.name))
            for item in dataclasses.fields(obj)
            if item.init and not (item.metadata.get("omit_default") and _is_default(obj, item))
        }
    if isinstance(obj, Mapping):
        return {to_dict(key): to_dict(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [to_dict(value) for value in obj]
    if isinstance(obj, Path):
        return str(obj)
    if obj is None or type(obj) in (bool, int, float, str):
        return obj
    if hasattr(obj, "item"):  # a NumPy scalar or a 0-d tensor
        return obj.item()
    raise TypeError(f"no plain form for a {type(obj).__name__}: {obj!r}")


def from_dict(cls: type[Settings], data: Mapping[str, Any], where: str) -> Settings:
    """Build a (nested) settings dataclass from plain data, as ``to_dict`` or a YAML file gives it.

    Args:
        data: Its fields; what is left out keeps its default.
        where: The file or thing the data came from, for messages.

    Raises: ValueError: one line naming ``where`` and every unknown key (with the nearest right
    one), missing key, value of a wrong type, and rule of the dataclass that is broken.
    """
    problems: list[str] = []
    built = _build(cls, data, "", problems)
    if problems:
        raise ValueError(f"{where}: {'; '.join(problems)}")
    return built


def with_options_of(
    settings: type[Any], **made: Callable[[Any], Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace the parameter ``config`` of a command by one option for each field of ``settings``.

    So names, kinds, defaults and texts of the options are written once; they stand where ``config``
    and its text stood.

    Args:
        settings: A dataclass; its docstring and those of its bases have their Args.
        made: What makes a field of an option that is typed in another form: kind and default of
            such an option are those of this function's parameter.
    """
    fields, hints = dataclasses.fields(settings), get_type_hints(settings)
    forms = {
        name: next(iter(inspect.signature(make, eval_str=True).parameters.values()))
        for name, make in made.items()
    }

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        def command_of_fields(**given: Any) -> Any:
            values = {f.name: given.pop(f.name) for f in fields if f.name in given}
            for name, make in made.items():
                values[name] = make(values.get(name, forms[name].default))
            return command(config=settings(**values), **given)

        own = inspect.signature(command, eval_str=True)
        options = list(own.parameters.values())
        place, empty = list(own.parameters).index("config"), inspect.Parameter.empty
        del options[place]
        for number, f in enumerate(fields, start=place):
            # Not of an object: making one may import what help need not wait for.
            start = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
            start = empty if start is dataclasses.MISSING else start
            kind, hint = inspect.Parameter.KEYWORD_ONLY, hints[f.name]
            option = inspect.Parameter(f.name, kind, default=start, annotation=hint)
            if f.name in forms:
                option = forms[f.name].replace(name=f.name, kind=kind)
            options.insert(number, option)
        docs = (inspect.getdoc(each) or "" for each in reversed(settings.__mro__))
        parts = (doc.partition("Args:\n")[2].partition("\n\n")[0].rstrip() for doc in docs)
        texts = "\n".join(filter(None, parts)).replace("``", "")
        doc = re.sub(r" +config: .*", lambda _: texts, inspect.getdoc(command) or "", count=1)
        command_of_fields.__signature__ = own.replace(parameters=options)  # type: ignore[attr-defined]
        command_of_fields.__annotations__ = {p.name: p.annotation for p in options}
        command_of_fields.__name__ = command_of_fields.__qualname__ = command.__name__
        command_of_fields.__module__, command_of_fields.__doc__ = command.__module__, doc
        return command_of_fields

    return decorate


def merged(start: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes laid over what they change, level by level; neither is touched."""
    result = dict(start)
    for name, value in changes.items():
        below = result.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merged(below, value)
        result[name] = value
    return result


def did_you_mean(word: str, known: Iterable[str], *, at: str = "") -> str:
    """``; did you mean '…'?`` for the nearest known word, or nothing when none is near.

    Args:
        known: What is allowed there.
        at: What goes before the suggestion: the dotted place of a key, the dashes of an option.
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{at}{near[0]}'?" if near else ""


def unknown_keys(keys: Sequence[str], known: Sequence[str], at: str = "") -> list[str]:
    """Complaints about keys that are not known: one for each that is near a known one, and one for
    all others. ``at``: the dotted place of both, with its dot.
    """
    near = {key: did_you_mean(key, known, at=at) for key in keys}
    told = [f"unknown key '{at}{key}'{remedy}" for key, remedy in near.items() if remedy]
    if far := [f"'{at}{key}'" for key, remedy in near.items() if not remedy]:
        more = f" and {len(far) - 5} more" if len(far) > 5 else ""
        told.append(
            f"unknown key{'s' * (len(far) > 1)} {', '.join(far[:5])}{more}; known keys: "
            f"{', '.join(at + name for name in known)}"
        )
    return told


def type_name(hint: Any) -> str:
    """An annotation in a reader's words, for `must be …`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "null"
    if origin is Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return f"a list of {len(arguments)}: {', '.join(type_name(a) for a in arguments)}"
    if origin in (tuple, list):
        return f"a list of {_LISTS.get(arguments[0]) or type_name(arguments[0])}"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(hint):
        return "a mapping"
    words = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
    }
    return words.get(hint) or str(getattr(hint, "__name__", hint))


def kind(value: Any) -> str:
    """What a value is, for a message."""
    if isinstance(value, list | tuple):
        return "a list"
    return "nothing" if value is None else f"{value!r}"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-4`` is a number and a repeated key is an error.

    ``010``, ``1:30`` and ``2024-01-31`` are text, as in a manifest, not 8, 90 and a date.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [pair for pair in pairs if pair[0].rpartition(":")[2] not in ("int", "timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice: YAML would silently keep the last."""
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key != "<<" and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Safe YAML that puts quotes around text such as ``1e4``."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"),
    list("-+0123456789"),
)
# YAML 1.1, as PyYAML reads it, wants a dot in a float; people and json.dumps write 1e-4.
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def _typed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The command line leaves what is nested deeper than one level as text."""
    return {
        name: _typed(value)
        if isinstance(value, Mapping)
        else yaml.safe_load(value)
        if isinstance(value, str)
        else value
        for name, value in tree.items()
    }


def _is_default(obj: Any, item: dataclasses.Field[Any]) -> bool:
    """Whether a field holds what it holds if nothing is said."""
    value = getattr(obj, item.name)
    if item.default_factory is not dataclasses.MISSING:
        return bool(value == item.default_factory())
    return bool(value == item.default)


_LISTS: dict[Any, str] = {
    int: "whole numbers, such as [1, 2]",
    float: "numbers, such as [0.5, 1]",
    str: "words, such as [one, two]",
    Path: "paths, such as [one, two]",
}
_MISFIT = object()  # Stands for a value whose problem is already noted.


def _build(cls: type[Any], data: Any, at: str, problems: list[str]) -> Any:
    """Build one dataclass; problems are appended with the dotted place they stand at."""
    if not isinstance(data, Mapping):
        problems.append(f"{at or cls.__name__} is {kind(data)}, not a mapping of keys to values")
        return _MISFIT
    before = len(problems)
    hints = get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}
    prefix = f"{at}." if at else ""
    problems += unknown_keys([str(key) for key in data if key not in fields], list(fields), prefix)
    values = {}
    for name, item in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], prefix + name, problems)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            problems.append(f"missing key '{prefix}{name}' (must be {type_name(hints[name])})")
    if len(problems) > before:
        return _MISFIT
    try:
        return cls(**values)
    except ValueError as error:  # the dataclass's own rules
        named = not at or str(error).startswith(f"{at.rsplit('.', 1)[-1]}:")
        problems.append(str(error) if named else f"{at}: {error}")
        return _MISFIT


def _convert(hint: Any, value: Any, at: str, problems: list[str]) -> Any:
    """Fit a plain value to an annotation, or note a problem and return ``_MISFIT``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _build(hint, value, at, problems)
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, at, problems)
    if origin is Literal and any(value == a and type(value) is type(a) for a in arguments):
        return value
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return _convert_sequence(hint, value, at, problems)
    if origin in (dict, Mapping):
        if isinstance(value, Mapping):
            return {
                _convert(arguments[0], key, f"a key of {at}", problems): _convert(
                    arguments[1], item, f"{at}.{key}", problems
                )
                for key, item in value.items()
            }
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif hint is None or hint is type(None):
        if value is None:
            return None
    elif isinstance(hint, type) and type(value) is hint:  # bool is no int here
        return value
    return _misfit(hint, value, at, problems)


def _convert_union(hint: Any, value: Any, at: str, problems: list[str]) -> Any:
    """The first member that takes the value; a dataclass member tells its own problems."""
    for member in get_args(hint):
        trial: list[str] = []
        built = _convert(member, value, at, trial)
        if not trial:
            return built
        if dataclasses.is_dataclass(member) and isinstance(value, Mapping):
            problems.extend(trial)
            return _MISFIT
    return _misfit(hint, value, at, problems)


def _misfit(hint: Any, value: Any, at: str, problems: list[str]) -> Any:
    """Note that a value is of another kind."""
    wanted = str in (hint, *get_args(hint)) and get_origin(hint) not in (list, tuple, dict)
    quotes = wanted and value is not None and not isinstance(value, list | Mapping)
    remedy = "; write it in quotes" if quotes else ""  # YAML's yes, no, on, off and numbers
    problems.append(f"{at} = {value!r} (must be {type_name(hint)}{remedy})")
    return _MISFIT


def _convert_sequence(
    hint: Any, value: list[Any] | tuple[Any, ...], at: str, problems: list[str]
) -> Any:
    """Fit the items of a list or tuple."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            problems.append(f"{at} = {list(value)} (must be {type_name(hint)})")
            return _MISFIT
        kinds = arguments
    else:
        kinds = arguments[:1] * len(value)
    items = [
        _convert(kind, item, f"{at}[{index}]", problems)
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]
    return tuple(items) if origin is tuple else items
