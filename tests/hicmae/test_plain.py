"""Plain data to settings and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from hicmae.config import did_you_mean, from_dict, to_dict, type_name
from hicmae.settings import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Settings inside settings."""

    rate: float = 0.5
    name: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate = {self.rate} (must be 0 or more)")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """Settings of every kind that a configuration holds."""

    folder: Path
    count: int = 1
    flag: bool = False
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = ()
    words: list[str] = field(default_factory=list)
    table: dict[str, int | float | str] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    inners: tuple[Inner, ...] = ()


FULL = Outer(
    folder=Path("x/y"),
    count=3,
    flag=True,
    pair=(1.0, 2.5),
    many=(1, 2),
    words=["a"],
    table={"a": 1, "b": 0.5, "c": "d"},
    maybe=Inner(rate=2.0, name="b"),
    inners=(Inner(), Inner(rate=1.0)),
)


def test_settings_survive_the_way_to_plain_data_and_back() -> None:
    plain = to_dict(FULL)
    assert plain["folder"] == "x/y"
    assert plain["inners"] == [{"rate": 0.5, "name": "a"}, {"rate": 1.0, "name": "a"}]
    assert from_dict(Outer, plain, "test") == FULL
    assert from_dict(ModelConfig, to_dict(ModelConfig()), "test") == ModelConfig()


def test_a_whole_number_is_a_number_and_keeps_no_bool() -> None:
    built = from_dict(Outer, {"folder": ".", "inner": {"rate": 2}}, "test")
    assert built.inner.rate == 2.0
    assert isinstance(built.inner.rate, float)
    for value in (True, "3", 3.0, None):
        with pytest.raises(ValueError, match=r"count = .* \(must be a whole number\)"):
            from_dict(Outer, {"folder": ".", "count": value}, "test")


def test_every_problem_is_said_at_once_with_its_place() -> None:
    data = {
        "cuont": 2,
        "flag": 1,
        "pair": [1.0],
        "many": [1, "x"],
        "inner": {"rate": -1},
        "maybe": {"nmae": "a"},
        "inners": [{"name": "c"}],
        "table": {"a": []},
    }
    with pytest.raises(ValueError, match=r"file\.yaml: ") as caught:
        from_dict(Outer, data, "file.yaml")
    message = str(caught.value)
    assert "\n" not in message
    for expected in (
        "unknown key 'cuont'; did you mean 'count'?",
        "missing key 'folder' (must be a path)",
        "flag = 1 (must be true or false)",
        "pair = [1.0] (must be a list of 2: a number, a number)",
        "many[1] = 'x' (must be a whole number)",
        "inner: rate = -1.0 (must be 0 or more)",
        "unknown key 'maybe.nmae'; did you mean 'maybe.name'?",
        "inners[0].name = 'c' (must be one of a, b)",
        "table.a = [] (must be a whole number or a number or text)",
    ):
        assert expected in message


def test_a_key_unlike_any_other_is_answered_with_all_of_them() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'inner\.zzzz'; known keys: inner\.rate"):
        from_dict(Outer, {"folder": ".", "inner": {"zzzz": 1}}, "test")


def test_numpy_scalars_become_numbers_and_strangers_are_refused() -> None:
    assert to_dict({"a": np.float32(0.5), "b": np.int64(3)}) == {"a": 0.5, "b": 3}
    with pytest.raises(TypeError, match="no plain form for a set"):
        to_dict({"a": {1}})


def test_the_nearest_word_is_suggested_only_when_near() -> None:
    assert did_you_mean("lerning_rate", ["learning_rate", "epochs"]) == (
        "; did you mean 'learning_rate'?"
    )
    assert did_you_mean("zebra", ["learning_rate", "epochs"]) == ""


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (tuple[int, ...], "a list of whole numbers, such as [1, 2]"),
        (list[float], "a list of numbers, such as [0.5, 1]"),
        (tuple[Path, ...], "a list of paths, such as [one, two]"),
        (tuple[Literal["a", "b"], ...], "a list of one of a, b"),
        (tuple[int, float], "a list of 2: a whole number, a number"),
    ],
)
def test_a_list_is_described_by_how_it_is_written(hint: Any, words: str) -> None:
    assert type_name(hint) == words
