"""Recordings that were refused there and not here.

For: comparing two folders of shards. Not for: counts by cause, which receipts have too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from shards.building.workplace import REFUSED_NAME
from shards.receipts.sample_facts import SampleFacts
from shards.schema import ShardError

_TAIL = 3


def compare_refusals(
    first: Path, first_facts: SampleFacts, second: Path, second_facts: SampleFacts
) -> dict[str, Any]:
    """Compare the lists of refused recordings.

    Recordings lie in other places on other machines: those of equal name and two folders above
    are taken for the same, and a sample is found by the path its json tells, which is relative.

    Returns: ``only_first`` and ``only_second``: list of ``path``, ``cause``, and ``sample``,
        whether the other side has a sample of it; ``other_cause``: list of ``path`` and
        ``causes``; ``num_both``.

    Raises:
        ShardError: A list that cannot be read.
    """
    sides = [_read(folder) for folder in (first, second)]
    sources = [set(facts.sources) for facts in (first_facts, second_facts)]
    both = [tail for tail in sides[0] if tail in sides[1]]
    only = []
    for here, there in ((0, 1), (1, 0)):
        only.append(
            [
                {"path": path, "cause": cause, "sample": _has_sample(path, sources[there])}
                for tail, (path, cause) in sides[here].items()
                if tail not in sides[there]
            ]
        )
    return {
        "only_first": only[0],
        "only_second": only[1],
        "other_cause": [
            {"path": sides[0][tail][0], "causes": [sides[0][tail][1], sides[1][tail][1]]}
            for tail in both
            if sides[0][tail][1] != sides[1][tail][1]
        ],
        "num_both": len(both),
    }


def _read(folder: Path) -> dict[str, tuple[str, str]]:
    """The end of a path → (path, cause); nothing where there is no list."""
    path = folder / REFUSED_NAME
    if not path.is_file():
        return {}
    refused = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            name = str(entry["path"])
            refused["/".join(PurePosixPath(name).parts[-_TAIL:])] = (name, str(entry["cause"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: cannot be read ({error}); build these shards again") from error
    return refused


def _has_sample(path: str, sources: set[str]) -> bool:
    """Whether a recording is the source of a sample, by the longest or any shorter end."""
    return any(tail in sources for tail in _tails(path))


def _tails(path: str) -> Iterator[str]:
    parts = PurePosixPath(path).parts
    for start in range(len(parts)):
        yield str(PurePosixPath(*parts[start:]))
