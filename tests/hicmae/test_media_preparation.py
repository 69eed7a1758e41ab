"""The part of a build's settings that prediction repeats."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hicmae.config import from_dict, load_yaml
from hicmae.media.preparation import Preparation
from hicmae.settings import InputConfig
from shards.settings import BuildConfig


def test_it_has_the_fields_and_defaults_of_a_build() -> None:
    build = BuildConfig()
    for field in dataclasses.fields(Preparation):
        assert getattr(build, field.name) == field.default, field.name


def test_every_profile_gives_one(repository: Path) -> None:
    profiles = sorted((repository / "configs" / "shards").glob("*.yaml"))
    read = 0
    for path in profiles:
        values = load_yaml(path)
        names = {field.name for field in dataclasses.fields(BuildConfig)}
        if not set(values) <= names:
            continue  # a corpus to render, not a build
        build = from_dict(BuildConfig, values, where=path.name)
        preparation = Preparation.of_build(build.recorded(), where=path.name)
        assert preparation.face_size == build.face_size
        assert preparation.box == build.box
        preparation.face_config()
        read += 1
    assert read >= 4


def test_a_value_that_cannot_be_one_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"config.json: data.build: face_size = 'big'"):
        Preparation.of_build({"face_size": "big"}, where="config.json: data.build")


def test_the_default_has_the_size_and_rate_of_the_input() -> None:
    default = Preparation.default(InputConfig(image_size=96, fps=30.0))
    assert (default.face_size, default.fps, default.faces) == (96, 30.0, "yunet")
