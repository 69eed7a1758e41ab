"""Random numbers that follow from what they are drawn for, whoever draws them and when.

For: where in a sample a training clip begins, in both readers. Not for: the order of samples
(``order.py``), or changes to pixels and sound (``hicmae/transforms``).
"""

from __future__ import annotations

import json

import xxhash


def uniform_draw(*names: int | str) -> float:
    """A number in [0, 1), the same for the same names and unrelated for others.

    A hash of the names rather than a generator seeded with them: setting up one of NumPy's takes
    as long as a third of an image, and what it then draws is promised for one NumPy only (NEP 19).
    The 53 upper bits fill the number, so that it is never 1.

    Raises: TypeError: a name is another kind of thing, NumPy's integers among them.
    """
    # JSON's text of them is the same everywhere; what repr shows depends on Python and NumPy.
    return float(xxhash.xxh3_64_intdigest(json.dumps(names).encode()) >> 11) / 2.0**53
