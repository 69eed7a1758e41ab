"""Where configurations lie and how they are read: YAML files, packaged or the user's own.

For: reading and writing YAML, finding a file of ``configs/`` from a clone and from an installed
package, and model sizes by name. Not for: the command line, whose values jsonargparse checks
(``hicmae/__main__.py``), nor for turning data into dataclasses (``hicmae/plain.py``, whose
functions are offered here too).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from hicmae.plain import did_you_mean, from_dict, kind, to_dict
from hicmae.settings import ModelConfig

__all__ = [
    "config_path",
    "config_root",
    "did_you_mean",
    "from_dict",
    "load_model_config",
    "load_yaml",
    "save_yaml",
    "to_dict",
]


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
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path}: holds {kind(data)}, not a mapping of keys to values")
    return data


def save_yaml(path: str | Path, data: Any) -> None:
    """Write settings (a dictionary or a dataclass) as YAML, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(
            yaml.safe_dump(to_dict(data), sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


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


def _one_line(error: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-4`` is a number and a repeated key is an error."""

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


# YAML 1.1, as PyYAML reads it, wants a dot in a float; people and json.dumps write 1e-4.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)
