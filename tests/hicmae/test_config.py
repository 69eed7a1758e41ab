"""Reading, writing and finding configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from hicmae.config import (
    config_path,
    config_root,
    load_model_config,
    load_yaml,
    save_yaml,
    to_dict,
)
from hicmae.settings import ModelConfig


def test_an_exponent_without_a_dot_is_a_number(tmp_path: Path) -> None:
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


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# nothing but a comment\n")
    assert load_yaml(path) == {}


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


@pytest.mark.parametrize("text", ["[1, 2]\n", "word\n", "3\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a mapping"):
        load_yaml(path)


def test_a_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"a\.yaml: not a text file"):
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
