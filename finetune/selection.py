"""Which epoch's weights are tested, and under whose rules: a part of every number.

The names of the rules and what they mean in words; ``finetune/validation.py`` follows them.

Deviation: the reference reports the epoch that is best on the test split. Here the last epoch is
tested, or the best on people carved out of the training side; the reference's choice goes by the
name ``best-on-test``, and every number so chosen carries it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Rule = Literal["last", "inner-validation", "best-on-test"]
ProtocolName = Literal["default", "paper"]

# Test-time clips of a sample in the published evaluation (of its two crops, which are the same
# picture for square frames, one is taken).
PAPER_SEGMENTS = 2

# What stands behind a number of an epoch that was chosen on the test side.
CHOSEN_ON_TEST = " (best-on-test)"

_RULES: dict[str, str] = {
    "last": "last: the weights after the last epoch were tested; no epoch was chosen by a score",
    "inner-validation": (
        "inner-validation: the epoch was chosen by its score on a share of the training side that"
        " was kept out of training; the test side was looked at once, with its weights"
    ),
    "best-on-test": (
        "best-on-test: every epoch was scored on the test side and the best is shown, so these"
        " numbers are too high for what an unseen test side would give"
    ),
}
_PAPER = (
    "protocol paper: the reference's choice of epoch (best-on-test, by WAR for classes and CCC for"
    " real values, of one clip at a random place of each sample), views of the numbers shown"
    f" ({PAPER_SEGMENTS} segments, averaged), pooling (all folds together), recipe and mixing"
    " (sound left unmixed)"
)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the tested weights are chosen.

    Args:
        name: ``default``, or ``paper``: the reference's choices.
        selection: The rule.
        validation_share: Share of the training side that ``inner-validation`` keeps out of
            training.
        judge: Metric that chooses an epoch, of one clip at a random place of each sample; empty:
            the benchmark's leading one, of the views that are tested.
    """

    name: ProtocolName = "default"
    selection: Rule = "last"
    validation_share: float = 0.15
    judge: str = field(default="", metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share = {self.validation_share} (must lie in (0, 1))")
        if self.selection not in _RULES:
            raise ValueError(f"selection = {self.selection} (must be one of {', '.join(_RULES)})")


def rule_label(selection: str, protocol: str) -> str:
    """The rule as it stands in tables: ``last``, ``best-on-test (protocol paper)``."""
    return selection if protocol == "default" else f"{selection} (protocol {protocol})"


def rule_sentence(selection: str, protocol: str) -> str:
    """The rule in words."""
    sentence = _RULES.get(selection, selection)
    return sentence if protocol != "paper" else f"{sentence}; {_PAPER}"


def marked(number: str, selection: str) -> str:
    """A number as it is shown: one that was chosen on the test side says so itself."""
    return f"{number}{CHOSEN_ON_TEST}" if selection == "best-on-test" and number else number
