"""Which network a recipe means: a size by name, changed in places or not.

For: the ``model`` setting of pretraining and its bench. Not for: what the sizes are
(``configs/model/``) or how they are checked (``hicmae/settings.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from hicmae.config import from_dict, load_model_config, to_dict
from hicmae.plain import merged
from hicmae.settings import ModelConfig

ModelChoice = str | dict[str, Any]


def choose_model(model: ModelChoice) -> ModelConfig:
    """Turn a ``model`` setting into sizes.

    Args:
        model: A name out of ``configs/model/`` or a YAML file; or a mapping of sizes, in which
            ``size`` is the name or file to start from and the others change it. Without ``size``
            every size must be given: a change must know what it changes.

    Raises:
        ValueError: An unknown name, key or value, or changes without ``size``.
        FileNotFoundError: No such file.
    """
    if isinstance(model, str):
        return load_model_config(model)
    changes = _parsed(model)
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


def _parsed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The command line leaves what is nested deeper than one level as text."""
    return {
        name: _parsed(value)
        if isinstance(value, Mapping)
        else yaml.safe_load(value)
        if isinstance(value, str)
        else value
        for name, value in tree.items()
    }
