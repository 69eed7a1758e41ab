"""Tables in which a loss, a detector or a fusion stands by name, each with settings of its own.

A registered thing is one file: a function or class, its settings as a frozen dataclass, and one
``register`` above it. Packages of others add theirs the same way, when they are imported; the
command line, and the first look for a name that is not here, import what they name as an entry
point in the group ``hicmae.plugins``.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hicmae.config import did_you_mean, from_dict

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class NoSettings:
    """Of what has nothing to be set."""


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """One line of a table.

    Args:
        name: As recipes write it.
        settings: The dataclass of its settings; what it may be given besides its input.
    """

    name: str
    make: T
    settings: type[Any] = NoSettings

    def configure(self, values: Mapping[str, Any], where: str) -> Any:
        """Its settings out of plain data.

        Raises: ValueError: an unknown key or a wrong value; ``where`` says of what.
        """
        return from_dict(self.settings, values, where)


class Registry(Generic[T]):
    """A table of things of one kind, by name.

    Args: kind: What they are, in messages: ``fine-tuning loss``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, *, settings: type[Any] = NoSettings) -> Callable[[T], T]:
        """Decorator that puts a function or class into the table.

        Raises: ValueError: the name is taken.
        """

        def add(make: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._entries[name] = Entry(name=name, make=make, settings=settings)
            return make

        return add

    def unregister(self, name: str) -> None:
        """Take one out again."""
        del self._entries[name]

    def __getitem__(self, name: str) -> Entry[T]:
        """Raises: ValueError: no such name; the nearest one is named."""
        if name not in self._entries:
            load_plugins()  # a program that is not the command line has not done so yet
        if name not in self._entries:
            raise ValueError(
                f"{self.kind} '{name}' is unknown{did_you_mean(name, self.names)} (registered:"
                f" {', '.join(self.names)})"
            )
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    @property
    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)


def load_plugins() -> None:
    """Import what installed packages name in the group ``hicmae.plugins``, so that it registers.

    Raises: ValueError: one cannot be imported; it is named.
    """
    for point in importlib.metadata.entry_points(group="hicmae.plugins"):
        try:
            point.load()
        except (Exception, SystemExit) as error:
            package = point.dist.name if point.dist else "its package"
            said = str(error) if isinstance(error, ImportError | ValueError) else repr(error)
            raise ValueError(
                f"plug-in {point.name} ({point.value}): {said}; mend or uninstall {package}"
            ) from error
