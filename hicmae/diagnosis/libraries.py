"""Versions: Python, this package, and every library that it asks for.

For: comparing what is installed with the bounds in ``pyproject.toml``. Not for: what the libraries
can do on this machine.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

import hicmae
from hicmae.config import config_root
from hicmae.diagnosis.finding import Finding

# Imported, not only looked up: a mismatch of torch and its companions shows at import.
IMPORTED = ("torch", "torchaudio", "torchvision")
# Shown one by one, for bug reports; of the others only what is wrong is.
_NAMED = ("pytorch-lightning", "deepspeed", "webdataset", "timm", "jsonargparse")
# What the libraries of an extra are for.
_EXTRAS = {"export": "hicmae checkpoint export --format onnx"}


def check_versions() -> list[Finding]:
    """Python, hicmae, torch and its companions, and all other libraries against their bounds."""
    return [_python(), _package(), *map(_imported, IMPORTED), *_installed()]


def requirements() -> list[Requirement]:
    """What this package asks for: from its installation, or the pyproject.toml of the clone.

    Returns: nothing where neither can be read.
    """
    try:
        lines = importlib.metadata.requires("hicmae") or []
    except importlib.metadata.PackageNotFoundError:
        lines = list(_of_the_clone(Path(hicmae.__file__).parents[1] / "pyproject.toml"))
    return [Requirement(line) for line in lines]


def _of_the_clone(file: Path) -> Iterator[str]:
    """Requirements in a pyproject.toml, those of extras marked as an installation marks them."""
    if sys.version_info < (3, 11) or not file.is_file():  # tomllib came with 3.11
        return
    import tomllib

    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    yield from project["dependencies"]
    for extra, lines in project["optional-dependencies"].items():
        yield from (f'{line} ; extra == "{extra}"' for line in lines)


def _python() -> Finding:
    """The interpreter."""
    return Finding(
        topic="python",
        found=f"{platform.python_version()} on {platform.platform()}",
    )


def _package() -> Finding:
    """This package, with its configurations."""
    configs = config_root()
    num_configs = len(list(configs.rglob("*.yaml")))
    return Finding(
        topic="hicmae",
        found=f"{hicmae.__version__}, {num_configs} configurations in {configs}",
        state="ok" if num_configs else "broken",
        remedy="" if num_configs else "install again: pip install .",
    )


def _imported(name: str) -> Finding:
    """A library that is imported to be sure."""
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        return Finding(
            topic=name,
            state="broken",
            found=f"does not import: {str(error).splitlines()[0]}",
            remedy="install the three of one release: torch, torchaudio, torchvision",
        )
    return Finding(topic=name, found=module.__version__)


def _installed() -> Iterator[Finding]:
    """Every library that is asked for, against its bounds."""
    wanted = requirements()
    if not wanted:
        yield Finding(
            topic="libraries",
            state="note",
            found="the bounds of their versions are not known here",
            remedy="pip install .",
        )
    num_good = 0
    for requirement in wanted:
        extra = next((name for name in _EXTRAS if _asked_by(requirement, name)), None)
        if extra is None and not _asked_by(requirement, ""):
            continue  # for developers, or for another system
        finding = _against_bounds(requirement, extra)
        if finding.state != "ok" or requirement.name in _NAMED:
            yield finding
        else:
            num_good += 1
    if num_good:
        yield Finding(topic="other libraries", found=f"{num_good}, each in the range asked for")


def _asked_by(requirement: Requirement, extra: str) -> bool:
    """Whether a requirement holds here with an extra, or without any."""
    if requirement.marker is None:
        return not extra
    return requirement.marker.evaluate({"extra": extra}) and not (
        extra and requirement.marker.evaluate({"extra": ""})
    )


def _against_bounds(requirement: Requirement, extra: str | None) -> Finding:
    """One library: its version, or what is wrong with it."""
    bounds = f"{requirement.name}{requirement.specifier}"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            topic=requirement.name,
            state="note" if extra else "broken",
            found=f"not installed; {_EXTRAS[extra]} needs it" if extra else "not installed",
            remedy=f"pip install 'hicmae[{extra}]'" if extra else f"pip install '{bounds}'",
        )
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(
            topic=requirement.name,
            state="note" if extra else "broken",
            found=f"{version}, not in the range {requirement.specifier}",
            remedy=f"pip install '{bounds}'",
        )
    return Finding(topic=requirement.name, found=version)
