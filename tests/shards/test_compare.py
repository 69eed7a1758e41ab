"""Two preparations are compared: every planted difference is named, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp

from hicmae.__main__ import main
from shards.index import read_index
from shards.receipts.compare import (
    COMPARABLE,
    DIFFERENT,
    IDENTICAL,
    OTHER_ENCODING,
    SAME_CONTENT,
    compare_preparations,
    judge,
    read_preparation,
)
from shards.receipts.facts import (
    ASPECTS,
    QUANTITIES,
    describe_values,
    exact_distance,
    histogram_distance,
    read_facts,
    shift_in_words,
)
from shards.receipts.receipt import make_receipt
from tests.support.preparations import Sample, changed, moving_sample, write_preparation


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    """Forty short samples."""
    return [moving_sample(number, num_frames=6) for number in range(40)]


def compared(first: Path, second: Path, num_signals: int = 0) -> dict[str, Any]:
    return compare_preparations(
        read_preparation(first), read_preparation(second), num_signals=num_signals
    )


def mailed(folder: Path) -> Path:
    """The receipt of a folder alone, in a file elsewhere."""
    index = read_index(folder)
    path = folder.with_name(f"{folder.name}.json")
    path.write_text(json.dumps(make_receipt(index, read_facts(index), {})))
    return path


def both_ways(first: Path, second: Path) -> list[dict[str, Any]]:
    """As folders, and as receipts."""
    return [compared(first, second), compared(mailed(first), mailed(second))]


def test_same_build_is_identical(samples: list[Sample], tmp_path: Path) -> None:
    for found in both_ways(
        write_preparation(tmp_path / "a", samples), write_preparation(tmp_path / "b", samples)
    ):
        assert found["verdict"] == IDENTICAL
        assert found["configuration"] == found["counts"] == found["refused"] == {}
        assert all(found["digests"].values())
        assert {item["distance"] for item in found["distributions"].values()} == {0.0}


def test_other_shards_of_the_same_samples_are_the_same_content(
    samples: list[Sample], tmp_path: Path
) -> None:
    a = write_preparation(tmp_path / "a", samples, config={"samples_per_shard": 4})
    b = write_preparation(
        tmp_path / "b", samples[::-1], config={"samples_per_shard": 9}, samples_per_shard=9
    )
    for found in both_ways(a, b):
        assert found["verdict"] == SAME_CONTENT
        assert found["configuration"] == {"samples_per_shard": [4, 9]}
        assert not found["digests"]["shards"]


def test_a_setting_that_an_index_leaves_out_is_named_by_its_value(tmp_path: Path) -> None:
    samples = [moving_sample(number, num_frames=20) for number in range(2)]
    plain = write_preparation(tmp_path / "plain", samples)
    other = write_preparation(tmp_path / "other", samples, config={"picture": "required"})
    for found in both_ways(plain, other):
        assert found["configuration"] == {"picture": ["optional", "required"]}


def test_other_jpegs_of_the_same_samples_are_another_encoding(tmp_path: Path) -> None:
    sides = [
        write_preparation(
            tmp_path / str(quality),
            [moving_sample(number, quality=quality, num_frames=20) for number in range(10)],
            config={"jpeg_quality": quality},
        )
        for quality in (90, 60)
    ]
    for found in both_ways(*sides):
        assert found["verdict"] == OTHER_ENCODING
        assert found["configuration"] == {"jpeg_quality": [90, 60]}
        assert {name for name, same in found["digests"].items() if not same} == {
            "preparation",
            "content",
            "ordered_samples",
            "picture",
            "shards",
        }
        assert found["distributions"]["image_bytes"]["shift"].endswith("smaller")


def test_few_lost_samples_are_comparable_and_many_are_different(
    samples: list[Sample], tmp_path: Path
) -> None:
    a = write_preparation(tmp_path / "a", samples)
    for lost, verdict in ((2, COMPARABLE), (3, DIFFERENT)):
        b = write_preparation(tmp_path / f"b{lost}", samples[:-lost])
        folders, receipts = both_ways(a, b)
        assert folders["verdict"] == receipts["verdict"] == verdict
        assert folders["samples"]["num_shared"] == 40 - lost
        keys = [info.key for info, *_ in samples]
        assert sorted(folders["samples"]["only_first"]) == sorted(keys[-lost:])
        assert folders["samples"]["only_second"] == []
        assert receipts["samples"] is None


def test_every_limit_between_comparable_and_different_is_the_documented_one() -> None:
    words = ("seconds", "face_pixels", "face_coverage", "loudness_db", "image_bytes")
    found: dict[str, Any] = {
        "digests": dict.fromkeys(("shards", "ordered_samples", "content", "keys", *ASPECTS), False),
        "configuration": {name: [1, 2] for name in ("chroma", "min_seconds")},
        "num_samples": [100, 95],
        "samples": None,
        "classes": {"differing": {"emotion": {"largest_share_difference": 0.05}}},
        "measured": {"valence": {"gap": 0.5, "sides": ["0 to 1", "0 to 2"]}},
        "distributions": {name: {"distance": 0.1, "num": [9, 9]} for name in words},
        "signals": {"samples": [{}] * 20, "num_shifted": 1, "median_psnr_db": 25.0},
    }
    none = {"num_relabelled": 0, "num_retimed": 0}
    shared = {"num_shared": 100, "num_relabelled": 1, "num_retimed": 1}
    assert judge(found)[0] == COMPARABLE
    assert judge(found | {"num_samples": [100, 100], "samples": shared})[0] == COMPARABLE
    for changes, said in (
        ({"configuration": {"face_margin": [1, 2]}}, "settings that shape samples"),
        ({"num_samples": [94, 100]}, "as many samples: 94.0%"),
        ({"samples": shared | {"num_shared": 94, **none}}, "samples in both: 94.0%"),
        ({"samples": shared | {"num_relabelled": 2}}, "2 of 100 samples have another label"),
        ({"samples": shared | {"num_retimed": 2}}, "2 of 100 samples differ by more than one"),
        ({"classes": {"differing": {"fold": {"largest_share_difference": 0.06}}}}, "class of fold"),
        ({"measured": {"arousal": {"gap": 0.51, "sides": ["1", "2"]}}}, "arousal is spread"),
        ({"measured": {"arousal": {"gap": None, "sides": ["1", "2"]}}}, "arousal is spread"),
        ({"signals": found["signals"] | {"num_shifted": 2}}, "2 of 20 decoded samples are shifted"),
        ({"signals": found["signals"] | {"median_psnr_db": 24.9}}, "pictures are 24.9 dB apart"),
        *(
            ({"distributions": found["distributions"] | {name: item}}, f"{name} are {told}")
            for name in words[:4]
            for item, told in (
                ({"distance": 0.11, "num": [9, 9]}, "spread otherwise"),
                ({"distance": None, "num": [0, 9]}, "known of one side"),
            )
        ),
    ):
        more = {"num_samples": [100, 100]} if "samples" in changes else {}
        verdict, (reason,) = judge({**found, **more, **changes})
        assert verdict == DIFFERENT
        assert said in reason
    far = found["distributions"] | {"image_bytes": {"distance": 0.9, "num": [9, 9]}}
    assert judge(found | {"distributions": far})[0] == COMPARABLE


def test_settings_that_shape_samples_make_them_different(
    samples: list[Sample], tmp_path: Path
) -> None:
    a = write_preparation(tmp_path / "a", samples)
    others = [changed(sample, lambda info: {"padded_samples": 1}) for sample in samples]
    for name, setting, verdict in (
        ("shape", {"face_margin": 0.5}, DIFFERENT),
        ("choice", {"min_coverage": 0.2}, COMPARABLE),
    ):
        found = compared(a, write_preparation(tmp_path / name, others, config=setting))
        assert found["verdict"] == verdict
        assert any(next(iter(setting)) in reason for reason in found["reasons"])


def test_labels_and_speakers_that_differ_are_named(samples: list[Sample], tmp_path: Path) -> None:
    relabelled = [
        changed(sample, lambda info: {"labels": info.labels | {"fold": 1}}) for sample in samples
    ]
    relabelled[0] = changed(samples[0], lambda info: {"labels": {"emotion": "rage"}})
    relabelled[1] = changed(samples[1], lambda info: {"labels": {}, "speaker": "id77"})
    found = compared(
        write_preparation(tmp_path / "a", samples), write_preparation(tmp_path / "b", relabelled)
    )
    columns = found["samples"]["columns"]
    assert columns.keys() == {"emotion", "speaker"}
    assert columns["emotion"]["num"] == 2
    assert ["id00/00000", "joy", "rage"] in columns["emotion"]["examples"]
    assert ["id01/00001", "fear", None] in columns["emotion"]["examples"]
    assert columns["speaker"]["examples"] == [["id01/00001", "id01", "id77"]]
    assert found["samples"]["num_relabelled"] == 2
    assert found["classes"]["only_second"] == ["fold"]
    assert found["classes"]["differing"]["emotion"]["counts"] == {
        "joy": [20, 19],
        "fear": [20, 19],
        "rage": [0, 1],
    }
    assert found["verdict"] == DIFFERENT  # two of forty are more than one in a hundred
    assert found["samples"]["aspects"]["picture"]["num"] == 0


def test_a_label_that_is_listed_on_one_side_alone_is_no_other_share_of_its_classes(
    tmp_path: Path,
) -> None:
    """Receipts list up to fifty classes: one value more on one side made the two different."""
    named = [
        changed(
            moving_sample(number, num_frames=6),
            lambda info, line=0 if 50 <= number < 59 else number: {"labels": {"line": str(line)}},
        )
        for number in range(60)
    ]
    a = write_preparation(tmp_path / "a", named)
    b = write_preparation(tmp_path / "b", named[:-1])
    for found in both_ways(a, b):
        assert found["verdict"] == COMPARABLE
        assert found["classes"]["differing"] == {}


def test_numbers_of_one_side_and_text_of_the_other_are_the_same_class(
    samples: list[Sample], tmp_path: Path
) -> None:
    a = [changed(sample, lambda info: {"labels": {"fold": 1}}) for sample in samples[:4]]
    b = [*a[:3], changed(samples[3], lambda info: {"labels": {"fold": "one"}})]
    found = compared(write_preparation(tmp_path / "a", a), write_preparation(tmp_path / "b", b))
    assert found["samples"]["columns"]["fold"]["examples"] == [["id00/00003", 1, "one"]]


def test_a_measured_label_on_another_scale_is_named(samples: list[Sample], tmp_path: Path) -> None:
    """Of receipts too, which have no labels of single samples."""

    def rated(name: str, factor: float, shift: float, digits: int = 6) -> Path:
        values = [np.sin(number) * factor + shift for number in range(len(samples))]
        relabelled = [
            changed(sample, lambda _, value=value: {"labels": {"valence": round(value, digits)}})
            for sample, value in zip(samples, values, strict=True)
        ]
        return write_preparation(tmp_path / name, relabelled)

    a, nearly = rated("a", 1, 0), rated("nearly", 1.01, 0.02)
    for name, shift, digits, said in (("b", 4, 6, "1."), ("levels", 4, 0, "7 classes")):
        found = compared(mailed(a), mailed(rated(name, 3, shift, digits)))
        assert found["verdict"] == DIFFERENT
        (reason,) = found["reasons"]
        assert reason.startswith("valence is spread otherwise: -0.99")
        assert f" against {said}" in reason
    found = compared(mailed(a), mailed(nearly))
    assert found["verdict"] == COMPARABLE
    assert list(found["measured"]) == ["valence"]


def test_lengths_and_coverage_that_differ_are_measured(
    samples: list[Sample], tmp_path: Path
) -> None:
    others = [
        moving_sample(0, num_frames=9),
        moving_sample(1, num_frames=7),
        *samples[2:39],
        moving_sample(39, num_frames=6, coverage=0.5),
    ]
    found = compared(
        write_preparation(tmp_path / "a", samples), write_preparation(tmp_path / "b", others)
    )["samples"]
    assert found["columns"]["num_frames"]["num"] == 2
    assert found["columns"]["num_frames"]["largest"] == 3
    assert found["columns"]["num_frames"]["mean"] == 2
    assert found["columns"]["face_coverage"]["largest"] == -0.5
    assert found["num_retimed"] == 1  # one frame more is within rounding
    assert found["aspects"]["faces"]["num"] == 3  # the runs of frames are longer, too


def test_refused_there_and_not_here_is_found_on_other_machines(
    samples: list[Sample], tmp_path: Path
) -> None:
    a = write_preparation(
        tmp_path / "a",
        samples[:5],
        refused=[
            ("/here/corpus/in/7.mp4", "no-face"),
            ("/here/corpus/in/8.mp4", "no-face"),
            ("/here/corpus/in/9.mp4", "no-face"),
        ],
    )
    b = write_preparation(
        tmp_path / "b",
        [*samples[:5], samples[7]],
        refused=[
            ("/there/corpus/in/8.mp4", "damaged"),
            ("/there/corpus/in/9.mp4", "no-face"),
            ("/there/corpus/in/6.mp4", "too-short"),
        ],
    )
    found = compared(a, b)
    assert found["refusals"] == {
        "only_first": [{"path": "/here/corpus/in/7.mp4", "cause": "no-face", "sample": True}],
        "only_second": [{"path": "/there/corpus/in/6.mp4", "cause": "too-short", "sample": False}],
        "other_cause": [{"path": "/here/corpus/in/8.mp4", "causes": ["no-face", "damaged"]}],
        "num_both": 2,
    }
    assert found["refused"] == {"no-face": [3, 1], "damaged": [0, 1], "too-short": [0, 1]}


def test_refused_recordings_of_one_name_in_equal_folders_are_not_one(
    samples: list[Sample], tmp_path: Path
) -> None:
    refused = {
        "a": [("anna", "no-face"), ("ben", "no-face"), ("ben", "no-sound"), ("eve", "no-face")],
        "b": [("anna", "no-face"), ("ben", "no-face")],
    }
    folders = [
        write_preparation(
            tmp_path / side,
            samples[:3],
            refused=[(f"/{side}/{who}/one/camera/1.mp4", cause) for who, cause in each],
        )
        for side, each in refused.items()
    ]
    path = "/a/{}/one/camera/1.mp4"
    assert compared(*folders)["refusals"] == {
        "only_first": [{"path": path.format("eve"), "cause": "no-face", "sample": False}],
        "only_second": [],
        "other_cause": [{"path": path.format("ben"), "causes": ["no-face, no-sound", "no-face"]}],
        "num_both": 2,
    }


def test_distances_are_those_of_scipy_and_histograms_never_say_more(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tables = []
    for side, mean in enumerate((100.0, 120.0)):
        # One frame each: only the index is of interest here.
        one = moving_sample(0, num_frames=1, sound=False)
        rows = []
        for number, pixels in enumerate(random.normal(mean, 25, 300)):
            info, mjpg, _ = one
            faces = dataclasses.replace(info.faces, face_pixels=float(pixels))
            rows.append((dataclasses.replace(info, key=f"{number:04d}", faces=faces), mjpg, None))
        folder = write_preparation(tmp_path / str(side), rows, samples_per_shard=100)
        tables.append(read_index(folder).table)
    expected = ks_2samp(*(table["face_pixels"] for table in tables))
    exact = exact_distance("face_pixels", *tables)
    assert exact is not None
    assert exact[0] == pytest.approx(expected.statistic)
    described = [describe_values("face_pixels", table) for table in tables]
    binned = histogram_distance(*described)
    assert binned is not None
    assert 0.8 * exact[0] < binned <= exact[0] + 1e-12
    ratio = tables[1]["face_pixels"].mean() / tables[0]["face_pixels"].mean() - 1
    assert shift_in_words("face_pixels", *described) == f"{ratio:.1%} larger"
    assert shift_in_words("face_pixels", *described[::-1]).endswith("smaller")
    assert shift_in_words("loudness_db", *(describe_values("loudness_db", t) for t in tables)) == (
        "neither known"
    )


def test_values_beyond_the_bins_are_counted_in_the_outermost(tmp_path: Path) -> None:
    folder = write_preparation(
        tmp_path / "a", [moving_sample(0, num_frames=2), moving_sample(1, face_pixels=9000.0)]
    )
    table = read_index(folder).table
    assert describe_values("seconds", table)["bins"][0] == [0.125, 0.148651, 1]
    assert describe_values("face_pixels", table)["bins"][-1][1:] == [4096.0, 1]
    for quantity in QUANTITIES.values():
        assert (np.diff(quantity.edges) > 0).all()


def test_command_prints_the_verdict_and_tells_by_its_status(
    samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (str(write_preparation(tmp_path / name, samples)) for name in "ab")
    c = str(write_preparation(tmp_path / "c", samples[:10], config={"fps": 30.0}))
    out = tmp_path / "found.json"
    assert main(["shards", "compare", a, b]) == 0
    *_, note, verdict = capsys.readouterr().out.splitlines()
    assert verdict == "verdict: identical bytes"
    assert note.endswith("whether files are still whole: hicmae shards check)")
    assert main(["shards", "compare", a, c, "--most", "2", "--json", str(out)]) == 1
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "verdict: different"
    assert text.count("  only in A: ") == 2
    assert "and 28 more" in text
    found = json.loads(out.read_text())
    assert found["verdict"] == "different"
    assert found["configuration"] == {"fps": [25.0, 30.0]}
    assert len(found["samples"]["only_first"]) == 30


def test_bad_input_is_one_line_and_status_2(
    samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_preparation(tmp_path / "a", samples[:2])
    receipt = mailed(a)
    (tmp_path / "empty").mkdir()
    for other, options, words in (
        (tmp_path / "nowhere", [], "no such folder of shards"),
        (tmp_path / "empty", [], "no index.parquet"),
        (a / "refused.jsonl", [], "cannot be read"),
        (receipt, ["--signals", "2"], "leave out --signals"),
        (a, ["--most", "-1"], "must be 0 or more"),
        (receipt, ["--json", str(receipt)], "is what is read"),
        (receipt, ["--json", str(a / "index.json")], "is what is read"),
    ):
        assert main(["shards", "compare", str(a), str(other), *options]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert main(["shards", "info", str(a), "--json", str(a / "index.json")]) == 2
    assert "is what is read, and would be replaced" in capsys.readouterr().err
    assert len(read_index(a).table) == 2
    for _ in range(2):  # a file of one's own may be replaced, wherever it is
        assert main(["shards", "info", str(a), "--json", str(a / "about.json")]) == 0
