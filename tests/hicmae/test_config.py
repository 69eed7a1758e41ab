"""Configurations: files, plain data to settings and back, several files laid over one another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from hicmae.__main__ import VERBS
from hicmae.cli import make_parser
from hicmae.config import (
    config_path,
    config_root,
    did_you_mean,
    from_dict,
    load_model_config,
    load_yaml,
    merged,
    save_yaml,
    to_dict,
    type_name,
)
from hicmae.settings import ModelConfig


def test_an_exponent_without_a_dot_is_a_number_and_an_empty_file_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1e-4\nb: 1E6\nc: -2e+3\nd: 1.5e-3\ne: e4\nf: 12\ng: 2026-01-02e\n")
    assert load_yaml(path) == {
        "a": 1e-4,
        "b": 1e6,
        "c": -2e3,
        "d": 1.5e-3,
        "e": "e4",
        "f": 12,
        "g": "2026-01-02e",
    }
    path.write_text("# nothing but a comment\n")
    assert load_yaml(path) == {}


def test_numbers_of_people_times_and_dates_stay_the_text_that_a_manifest_holds(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("[[01, 08, 010, -07], [1:30, 2026-11-30, 2026-30-11], [0, -12, 0x1F, 1_000]]")
    path.write_text(f"a: {path.read_text()}\n")
    texts, times, numbers = load_yaml(path)["a"]
    assert texts == ["01", "08", "010", "-07"]
    assert times == ["1:30", "2026-11-30", "2026-30-11"]
    assert numbers == [0, -12, 31, 1000]


@pytest.mark.parametrize("text", ["!!bool x", "!!int x", "!!timestamp x", "[" * 2000 + "]" * 2000])
def test_yaml_that_cannot_be_made_into_values_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"a: {text}\n")
    with pytest.raises(ValueError, match=r"a\.yaml: not valid YAML: "):
        load_yaml(path)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: {x: 1, x: 2}\n", 2, "key 'x' is given twice"),
        ("a: 1\na: 2\n", 2, "key 'a' is given twice"),
        ("a: 1\nb: [1, 2\n", 3, "not valid YAML"),
        ("a: !!python/object:os.system x\n", 1, "not valid YAML"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=problem) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(f"{path} line {line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        *((text, "holds .*, not a mapping") for text in (b"[1, 2]\n", b"word\n", b"3\n")),
        (b"\xff\xfe\x00\x81", "not a text file"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_by_name(
    tmp_path: Path, data: bytes, problem: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.yaml: {problem}"):
        load_yaml(path)


def test_what_is_saved_is_read_back_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.yaml"
    save_yaml(path, ModelConfig(encoder_depth=10))
    assert load_yaml(path) == to_dict(ModelConfig(encoder_depth=10))
    assert [file.name for file in path.parent.iterdir()] == ["a.yaml"]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    save_yaml(path, {"a": 1})
    with pytest.raises(TypeError, match="no plain form"):
        save_yaml(path, {"a": object()})
    assert load_yaml(path) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.yaml"]


@pytest.mark.parametrize("name", ["configs/model/tiny.yaml", "model/tiny.yaml"])
def test_packaged_configurations_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_path(name) == config_root() / "model" / "tiny.yaml"


def test_a_file_of_the_user_comes_before_a_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = Path("configs/model/tiny.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("encoder_dim: 64\n")
    assert config_path(own) == own


def test_a_missing_configuration_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"did you mean 'configs/model/tiny\.yaml'\?"):
        config_path("configs/model/tiney.yaml")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        config_path(tmp_path)


def test_model_sizes_go_by_name_and_by_file(tmp_path: Path) -> None:
    assert load_model_config("base") == load_model_config(config_root() / "model" / "base.yaml")
    own = tmp_path / "own.yaml"
    own.write_text("encoder_dim: 64\n")
    assert load_model_config(own).encoder_dim == 64


def test_an_unknown_size_lists_the_sizes() -> None:
    with pytest.raises(
        ValueError, match=r"model 'huge': no such size \(sizes: base, .*small, tiny"
    ):
        load_model_config("huge")


def test_a_misspelt_key_of_a_model_names_file_and_nearest(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("input: {imag_size: 64}\n")
    with pytest.raises(ValueError, match="did you mean") as caught:
        load_model_config(own)
    assert str(caught.value) == (
        f"{own}: unknown key 'input.imag_size'; did you mean 'input.image_size'?"
    )


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


def test_words_that_yaml_takes_for_something_else_are_to_be_quoted(tmp_path: Path) -> None:
    """yes is true in YAML, and nobody who wrote words sees what is wrong with them."""
    path = tmp_path / "a.yaml"
    path.write_text("folder: .\nwords: [yes, 1, none]\n")
    with pytest.raises(ValueError, match="must be text") as caught:
        from_dict(Outer, load_yaml(path), "a.yaml")
    assert str(caught.value) == (
        "a.yaml: words[0] = True (must be text; write it in quotes); "
        "words[1] = 1 (must be text; write it in quotes)"
    )


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


def parsed(tmp_path: Path, *files: str, extra: tuple[str, ...] = ()) -> dict[str, Any]:
    words = ["--data.shards", "x", "--out", "y"]
    for number, text in enumerate(files):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        words += ["--config", str(path)]
    return make_parser("pretrain", VERBS["pretrain"]).keywords([*words, *extra])


def test_a_later_file_changes_only_what_it_names(tmp_path: Path) -> None:
    found = parsed(
        tmp_path,
        "objective: {temperature: 0.2, contrast_weight: 0.5}\nepochs: 3\n",
        "objective: {contrast_weight: 0.25}\n",
    )
    assert found["objective"].temperature == 0.2
    assert found["objective"].contrast_weight == 0.25
    assert found["epochs"] == 3


def test_changes_to_the_network_are_laid_over_its_size(tmp_path: Path) -> None:
    """The network is a mapping without a fixed set of keys, which files would else replace."""
    base, change = "model: {size: base, fusion_depth: 3}\n", "model: {fusion_depth: 1}\n"
    assert parsed(tmp_path, base, change)["model"] == {"size": "base", "fusion_depth": 1}
    nested = "model: {input: {num_frames: 8}}\n"
    other = "model: {input: {frame_stride: 8}}\n"
    found = parsed(tmp_path, base, nested, other)["model"]
    assert found["input"] == {"num_frames": 8, "frame_stride": 8}
    assert parsed(tmp_path, base, "model: tiny\n")["model"] == "tiny"
    options = ("--model.size", "small")
    found = parsed(tmp_path, base, change, extra=options)["model"]
    assert found == {"size": "small", "fusion_depth": 1}


def test_merging_touches_neither_mapping() -> None:
    start, changes = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": {"e": 4}}
    assert merged(start, changes) == {"a": {"b": 9, "c": 2}, "d": {"e": 4}}
    assert start == {"a": {"b": 1, "c": 2}, "d": 3}
    assert changes == {"a": {"b": 9}, "d": {"e": 4}}
