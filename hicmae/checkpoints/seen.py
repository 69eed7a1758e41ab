"""What labelled samples a network has seen, as digests that its checkpoint carries.

Whoever fine-tunes a checkpoint again proves with them that no sample of the test side, and nobody
on it, was in an earlier training. Digests have 64 bits: two of a million different samples are
mistaken for each other once in 40 million cases. Not here: what a sample is known by, which is
fine-tuning's to say.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SECTION = "seen"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Samples and speakers of every training on labels that led to a network.

    Args:
        trainings: What they were, such as ``mafw, fold 1``, each once.
        samples: Digests (N,) uint64, ascending; a sample may have several.
        speakers: Digests (M,) uint64, ascending.
    """

    trainings: tuple[str, ...]
    samples: np.ndarray
    speakers: np.ndarray

    def section(self) -> dict[str, Any]:
        """The section ``seen`` of a checkpoint; digests are little-endian, in base64."""
        return {
            "trainings": list(self.trainings),
            "samples": base64.b64encode(self.samples.astype("<u8").tobytes()).decode(),
            "speakers": base64.b64encode(self.speakers.astype("<u8").tobytes()).decode(),
        }


def digests(texts: Iterable[str]) -> np.ndarray:
    """BLAKE2b with 64 bits of texts. Returns: (N,) uint64, in their order."""
    found = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(found, dtype="<u8").astype(np.uint64)


def seen_of(config: Mapping[str, Any], where: str) -> Seen | None:
    """What a checkpoint's configuration says; none where it says nothing.

    Raises: ValueError: the section is damaged; ``where`` says of what.
    """
    if SECTION not in config:
        return None
    try:
        section = config[SECTION]
        samples, speakers = (
            np.frombuffer(base64.b64decode(section[name], validate=True), dtype="<u8")
            for name in ("samples", "speakers")
        )
        trainings = tuple(map(str, section["trainings"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: damaged configuration (section '{SECTION}': {error}); take another copy"
        ) from error
    return Seen(trainings=trainings, samples=samples, speakers=speakers)


def union(parts: Sequence[Seen]) -> Seen:
    """All that any of some networks has seen."""
    return Seen(
        trainings=tuple(dict.fromkeys(name for part in parts for name in part.trainings)),
        samples=np.unique(np.concatenate([part.samples for part in parts])),
        speakers=np.unique(np.concatenate([part.speakers for part in parts])),
    )
