"""What is known of the data before a run, and the fixed clips of its pictures."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hicmae.settings import ModelConfig
from pretrain.data import fixed_clips, mixing_notes, open_stream, survey
from pretrain.settings import DataConfig, PretrainConfig
from shards.reading.remote import CacheConfig
from tests.support.pretrain_shards import moving_sample, moving_shards
from tests.support.shard_fixtures import rewrite_shard, write_shards


@pytest.fixture(scope="module")
def partly_silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return moving_shards(tmp_path_factory.mktemp("shards") / "moving", silent=(3,))


def test_a_survey_counts_what_can_be_used(partly_silent: Path, tmp_path: Path) -> None:
    config = DataConfig(shards=partly_silent, batch_size=4, on_bad="skip")
    found = survey(config)
    assert found.num_clips == 7, "one is silent"
    assert found.hours == pytest.approx(7 * 24 / 25 / 3600)
    assert survey(replace(config, sound="optional")).num_clips == 8
    other = moving_shards(tmp_path / "other", 3)
    assert survey(replace(config, shards=(partly_silent, other))).num_clips == 10
    assert survey(replace(config, split="all")).num_clips == 7


def test_a_sample_that_lacks_something_is_named_with_its_folder(
    partly_silent: Path, tmp_path: Path
) -> None:
    whole = moving_shards(tmp_path / "whole")
    with pytest.raises(ValueError, match=rf"^{partly_silent}/train-\d+\.tar: sample .* no sound"):
        survey(DataConfig(shards=(str(whole), str(partly_silent)), batch_size=2))


def test_a_batch_of_several_clips_a_sample_needs_as_many_fewer_samples(
    partly_silent: Path,
) -> None:
    config = DataConfig(shards=partly_silent, batch_size=16, sound="optional")  # of 8 samples
    with pytest.raises(ValueError, match=r": 8 usable samples of split 'train', fewer than"):
        survey(config)
    assert survey(replace(config, clips_per_sample=2)).num_clips == 16
    with pytest.raises(ValueError, match=r"8 usable samples of .*, 2 clips each, fewer than"):
        survey(replace(config, clips_per_sample=2, batch_size=18))


def test_a_split_that_is_not_there_is_refused_with_those_that_are(partly_silent: Path) -> None:
    with pytest.raises(ValueError, match=r"no samples of split 'val' \(found train\)"):
        survey(DataConfig(shards=partly_silent, split="val"))


def test_the_build_is_known_where_all_shards_cut_faces_in_one_way(tmp_path: Path) -> None:
    for name, margin in (("a", 0.1), ("b", 0.1), ("c", 0.4)):
        build = {"faces": "not installed here", "face_margin": margin, "max_seconds": len(name)}
        write_shards(tmp_path / name, [moving_sample(0)], config=build)
    config = DataConfig(shards=(tmp_path / "a", tmp_path / "b"), batch_size=1)
    found = survey(config).build
    assert found == {"faces": "not installed here", "face_margin": 0.1, "max_seconds": 1}
    assert survey(replace(config, shards=(tmp_path / "a", tmp_path / "c"))).build is None


def test_a_folder_elsewhere_is_named_by_its_url_and_not_by_its_copy(
    partly_silent: Path, tmp_path: Path
) -> None:
    url, cache = f"file://{partly_silent}", CacheConfig(folder=tmp_path / "cache")
    with pytest.raises(ValueError, match=rf"^{re.escape(url)}: no samples of split 'val'"):
        survey(DataConfig(shards=url, split="val", cache=cache))


def test_pictures_are_made_of_the_same_whole_clips_with_sound(
    partly_silent: Path, tiny_model_config: ModelConfig
) -> None:
    size = tiny_model_config.input
    config = DataConfig(shards=partly_silent)
    clips = fixed_clips(config, size, 3)
    keys = clips["keys"]
    # In order of their keys: id00/00000, id00/00005, id01/00001, …; the silent id03/00003 is out.
    assert keys == ["id00/00000", "id01/00006", "id04/00004"]
    assert "id03/00003" not in fixed_clips(config, size, 99)["keys"]
    assert len(fixed_clips(config, size, 99)["keys"]) == 7
    again = fixed_clips(config, size, 3)
    assert torch.equal(again["frames"], clips["frames"])
    assert clips["frames"].shape == (3, 16, 32, 32, 3)


def test_a_clip_that_cannot_be_read_gives_way_to_the_next(
    partly_silent: Path, tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(partly_silent, damaged)
    tar = next(damaged.glob("train-000000.tar"))
    rewrite_shard(tar, {"id00/00000.mjpg": b"\0" * len(moving_sample(0)[1])})
    keys = fixed_clips(DataConfig(shards=damaged), tiny_model_config.input, 2)["keys"]
    assert len(keys) == 2
    assert "id00/00000" not in keys


def test_short_samples_are_drawn_only_where_there_is_nothing_else(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    size = tiny_model_config.input
    short = [moving_sample(number, num_frames=10) for number in range(2)]
    only = write_shards(tmp_path / "short", short)
    assert len(fixed_clips(DataConfig(shards=only), size, 2)["keys"]) == 2
    mixed = write_shards(tmp_path / "mixed", [*short, moving_sample(2)])
    assert fixed_clips(DataConfig(shards=mixed), size, 2)["keys"] == ["id02/00002"]


def test_a_batch_of_few_speakers_is_a_warning_that_says_what_to_do(
    tmp_path: Path, tiny_model_config: ModelConfig
) -> None:
    # Number n is of speaker n % 5: eight shards of four samples, sorted by speaker as listings are.
    numbers = sorted(range(32), key=lambda number: number % 5)
    folder = write_shards(
        tmp_path / "sorted", [moving_sample(number) for number in numbers], samples_per_shard=4
    )

    def notes(**changes: Any) -> list[str]:
        data = DataConfig(**({"shards": folder, "batch_size": 8} | changes))
        config = PretrainConfig(model=tiny_model_config, data=data, out=tmp_path / "run")
        return list(mixing_notes(open_stream(config), data))

    assert notes() == []
    # Two batches, which by chance have fewer speakers than a permutation's on average.
    few = moving_shards(tmp_path / "few", 16)
    assert notes(shards=few) == notes(shards=few, shuffle_shards=4) == []
    (said,) = notes(shuffle_shards=1)
    assert re.search(
        r"warning: speakers: [12]\.\d different in a batch of 8 \(4\.\d in a permutation's\); .* "
        r"leave out data\.shuffle_shards = 1$",
        said,
    )
    elsewhere = f"file://{folder}"
    whole = sum(path.stat().st_size for path in folder.glob("*.tar")) / 1e9
    roomy = CacheConfig(folder=tmp_path / "cache", gigabytes=2 * whole)
    assert notes(shards=elsewhere, cache=roomy) == []
    small = CacheConfig(
        folder=tmp_path / "cache", gigabytes=whole / 4
    )  # for one shard and the next
    (said,) = notes(shards=elsewhere, cache=small)
    assert "raise data.cache.gigabytes" in said
    (said,) = notes(shards=elsewhere, cache=small, shuffle_shards=8)
    assert said.startswith(
        "warning: the cache has room for 1 of the 8 shards that are read at once"
    )
