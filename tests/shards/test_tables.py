"""Tables as people have them say what their rows say, and mistakes are one line with a remedy."""

from __future__ import annotations

import csv
import io
import json
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from hicmae.__main__ import main
from shards.datasets import DATASETS, ReadOptions
from shards.manifest import ManifestRow, read_manifest, unique_keys
from shards.schema import is_safe_key
from tests.support.dataset_trees import medium

NUM_TABLES = 2000


def rows_of(path: Path, content: str | bytes) -> list[tuple[str, dict[str, Any]]]:
    """Name and labels of the rows of a table with this content."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(row.name, row.labels) for row in read_manifest(path)]


JOY, SAD = ("rec/a.mp4", {"emotion": "joy"}), ("rec/b.mp4", {"emotion": "sadness"})


@pytest.mark.parametrize(
    "content",
    [
        ",path,emotion\n0,rec/a.mp4,joy\n1,rec/b.mp4,sadness\n",
        "Unnamed: 0,path,emotion\n7,rec/a.mp4,joy\n3,rec/b.mp4,sadness\n",
        ",Unnamed: 0,Unnamed: 0.1,path,emotion\n0,7,1,rec/a.mp4,joy\n1,3,2,rec/b.mp4,sadness\n",
        "path,emotion,,\nrec/a.mp4,joy,,\n,,,\nrec/b.mp4,sadness,,\n",
        "path,emotion\nrec/a.mp4,joy,,,\nrec/b.mp4,sadness\n\n",
        "path;emotion\nrec/a.mp4;joy\nrec/b.mp4;sadness\n",
        "path\temotion\r\nrec/a.mp4\tjoy\r\nrec/b.mp4\tsadness\r\n",
        "path|emotion\nrec/a.mp4|joy\nrec/b.mp4|sadness\n",
        "path  emotion\nrec/a.mp4 joy\nrec/b.mp4   sadness\n",
        "sep=;\r\npath;emotion\r\nrec/a.mp4;joy\r\nrec/b.mp4;sadness\r\n",
        'path, emotion\nrec/a.mp4, "joy"\nrec/b.mp4, "sadness" \n',
        '"path"\t"emotion"\n"rec/a.mp4"\t"joy"\n"rec/b.mp4"\t"sadness"\n',
        ' path ;" emotion\n"\nrec/a.mp4;joy\nrec/b.mp4;sadness\n',
        "\ufeffpath,emotion\rrec/a.mp4,joy\rrec/b.mp4,sadness\r",
        "path\temotion\nrec/a.mp4\tjoy\nrec/b.mp4\tsadness\n".encode("utf-16"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_a_table_is_read_whatever_is_between_its_cells(
    content: str | bytes, suffix: str, tmp_path: Path
) -> None:
    assert rows_of(tmp_path / f"list{suffix}", content) == [JOY, SAD]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["0,6", "1", "-2,25"], [0.6, 1.0, -2.25]),
        (["0.5", "NaN", "1e-05"], [0.5, None, 1e-05]),
        (["1", "nan", ""], [1, None, None]),
        (["nan", "joy", ""], ["nan", "joy", None]),
        # Digests and ids are no numbers, however long.
        (["12e34567", "99e12345", "1e400"], ["12e34567", "99e12345", "1e400"]),
        (["12e3", "45e6", "7e8"], ["12e3", "45e6", "7e8"]),
        (["7123456789012345671", "7123456789012345672", "3"], None),
        (["9007199254740993", "", "5"], ["9007199254740993", None, "5"]),
        (["9007199254740992", "", "5"], [9007199254740992, None, 5]),
        (["1" * 400, "2", "3"], ["1" * 400, "2", "3"]),
        (["1" * 400 + ".5", "2", "3"], ["1" * 400 + ".5", "2", "3"]),
        (["٣", "٤", "1"], ["٣", "٤", "1"]),
        (["007", "8", "9"], ["007", "8", "9"]),
    ],
)
def test_a_column_is_of_one_kind_and_loses_nothing(
    cells: list[str], values: list[Any] | None, tmp_path: Path
) -> None:
    content = "path;x\n" + "".join(f"{at}.mp4;{cell}\n" for at, cell in enumerate(cells))
    found = [labels.get("x") for _, labels in rows_of(tmp_path / "list.csv", content)]
    assert found == (cells if values is None else values)
    assert [type(value) for value in found] == [
        type(value) for value in (cells if values is None else values)
    ]


def test_a_cell_may_be_as_long_as_the_trace_of_an_hour(tmp_path: Path) -> None:
    trace = json.dumps([round(0.1 * place, 1) for place in range(36_000)])
    ((_, labels),) = rows_of(tmp_path / "m.csv", f'path,note\na.mp4,"{trace}"\n')
    assert labels == {"note": trace}


@pytest.mark.parametrize("cell", ['{"a": "say \\"yes\\""}', "C:\\data\\"])
def test_backslashes_of_a_csv_that_is_one_stay(cell: str, tmp_path: Path) -> None:
    quoted = cell.replace('"', '""')
    rows = rows_of(tmp_path / "a.csv", f'path,x\na.mp4,"{quoted}"\n')
    assert [labels for _, labels in rows] == [{"x": cell}]


def test_a_comma_is_decimal_only_where_it_separates_nothing(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.tsv", "path\tcodes\na.mp4\t1,2\nb.mp4\t3\n")
    assert [labels for _, labels in rows] == [{"codes": "1,2"}, {"codes": "3"}]


def test_lists_of_the_authors_are_read_without_a_head(tmp_path: Path) -> None:
    hicmae = "rec/a b.mp4.avi rec/a.wav 0\n"
    (tmp_path / "train.csv").write_text("rec/a.mp4 rec/a.wav 0\nrec/b.mp4 rec/b.wav 11\n")
    first, second = read_manifest(tmp_path / "train.csv")
    assert (first.name, first.audio, first.labels) == (
        "rec/a.mp4",
        tmp_path / "rec/a.wav",
        {"label": 0},
    )
    assert (second.name, second.labels) == ("rec/b.mp4", {"label": 11})
    expected = [("rec/a.mp4", {"label": 0}), ("rec/b.mp4", {"label": 1})]
    for between in (" ", ",", "\t", ";"):
        content = f"rec/a.mp4{between}0\nrec/b.mp4{between}1\n"
        assert rows_of(tmp_path / "test.txt", content) == expected
    assert rows_of(tmp_path / "all.lst", "rec/a.mp4\nrec/b.mp4\n") == [
        ("rec/a.mp4", {}),
        ("rec/b.mp4", {}),
    ]
    for unclear in ("rec/a.mp4 30 0\n", "rec/a.mp4,joy\n", hicmae):
        with pytest.raises(ValueError, match=r"is a recording and no name of a col") as error:
            rows_of(tmp_path / "list.csv", unclear)
        assert "list.csv line 1: " in str(error.value)
        assert "put the names of the columns above it, such as 'path,label'" in str(error.value)
    named = "path frames label\nrec/a.mp4 30 0\n"
    assert rows_of(tmp_path / "list.csv", named) == [("rec/a.mp4", {"frames": 30, "label": 0})]


def test_paths_of_windows_are_found(tmp_path: Path) -> None:
    medium(tmp_path / "rec/a.mp4")
    medium(tmp_path / "rec/a.wav")
    medium(tmp_path / r"odd\name.mp4")
    (tmp_path / "list.csv").write_text("path,audio\nrec\\a.mp4,rec\\a.wav\nodd\\name.mp4,\n")
    first, second = read_manifest(tmp_path / "list.csv")
    assert (first.path, first.name, first.key) == (tmp_path / "rec/a.mp4", "rec/a.mp4", "rec/a")
    assert (first.audio, first.audio_name) == (tmp_path / "rec/a.wav", "rec/a.wav")
    assert second.path == tmp_path / r"odd\name.mp4"
    listing = DATASETS["csv"].read(tmp_path, ReadOptions(labels=tmp_path / "list.csv"))
    assert [item.path for item in listing.items] == ["rec/a.mp4", r"odd\name.mp4"]


def test_accents_are_found_in_one_character_or_two(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café/é.mp4") for form in ("NFC", "NFD"))
    assert composed != apart
    for there, written in ((composed, apart), (apart, composed)):
        folder = tmp_path / str(len(there))
        medium(folder / there)
        ((name, _),) = rows_of(folder / "list.csv", f"path\n{written}\n")
        assert name == there
        ((name, _),) = rows_of(folder / "list.csv", "path\n" + written.replace("/", "\\") + "\n")
        assert name == there


def test_a_drive_of_windows_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: path 'D:/a.mp4' is on a drive of Windows \("):
        rows_of(tmp_path / "list.csv", "path\nD:\\a.mp4\nD:/b.mp4\n")


def test_a_spreadsheet_says_what_its_csv_says(tmp_path: Path) -> None:
    table = pandas.DataFrame(
        {
            "path": ["a.mp4", "b.mp4"],
            "speaker": ["007", "8"],
            "start": [0.5, None],
            "fold": [1, 2],
            "valence": [0.25, None],
        }
    )
    table.to_csv(tmp_path / "list.csv")
    table.to_excel(tmp_path / "list.xlsx")
    rows = read_manifest(tmp_path / "list.xlsx")
    assert rows == read_manifest(tmp_path / "list.csv")
    assert rows[0].labels == {"fold": 1, "valence": 0.25}
    assert (rows[0].speaker, rows[0].start, rows[1].start) == ("007", 0.5, None)
    table.assign(video=7123456789012345).to_excel(tmp_path / "ids.xlsx")
    with pytest.raises(ValueError, match=r"ids.xlsx line 2: 7123456789012345 has more digits"):
        read_manifest(tmp_path / "ids.xlsx")
    for name in ("old.xls", "open.ods"):
        with pytest.raises(ValueError, match=f"{name}: .* save it as .xlsx or CSV"):
            read_manifest(medium(tmp_path / name))
    with pytest.raises(ValueError, match=r"bad.xlsx: no spreadsheet that can be read"):
        read_manifest(medium(tmp_path / "bad.xlsx"))


def test_json_is_read_by_lines_and_as_one_list(tmp_path: Path) -> None:
    rows = [
        {"path": "a.mp4", "id": 7123456789012345671, "v": 1, "text": "a\u2028b"},
        {"path": "b.mp4", "id": 8, "v": 0.5, "text": None},
    ]
    expected = [
        ("a.mp4", {"id": "7123456789012345671", "v": 1.0, "text": "a\u2028b"}),
        ("b.mp4", {"id": "8", "v": 0.5}),
    ]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for content in (lines, json.dumps(rows), json.dumps(rows, indent=1)):
        assert rows_of(tmp_path / "list.json", content) == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('path,x\na.mp4,"joy\nb.mp4,sad\n', "a quotation mark is never closed"),
        (
            'path,x\na.mp4,"say \\"yes\\""\n',
            'cannot be read as CSV (line 2 has a quotation mark as \\", which is "" in a CSV)',
        ),
        ("path,video\na.mp4,7.12346E+18\n", "line 2: video is 7.12346E+18, a long number without"),
        ("path,speaker\na.mp4,7.123456789012346e+18\n", "line 2: speaker is 7.123456789012346e+18"),
        ("path,a,\na.mp4,1,x\nb.mp4,1,\n", "column 3 has no name, and 1 cells (line 2: 'x')"),
        ("path;x\na.mp4;1;2\n", "line 2: 3 cells under 2 columns; quote cells that hold a separ"),
        (b"path,x\na.mp4,caf\xe9\n", "is no UTF-8 text (invalid continuation byte at byte 16)"),
        ("path,x\na.mp4,\x00\n", "is no text (it holds zero bytes)"),
        ("path\temotion\na.mp4\tj\n".encode("utf-16-le"), "is no text (it holds zero bytes)"),
        (",".join(f"column{n}" for n in range(300)) + "\n", "column11 and 288 more"),
        ("path,x\n" + "a.mp4," + "x" * (2**24 + 1) + "\n", "field larger than field limit"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(
    content: str | bytes, told: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"list\.csv") as error:
        rows_of(tmp_path / "list.csv", content)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("column", "cells", "told"),
    [
        ("audio", ["clean", "noisy"], "reserved for sound files, and 24 of its 24 cells are wrong"),
        ("boxes", ["2", "1"], "reserved for files of face boxes, and 24 of its 24 cells are wr"),
        ("region", ["EU", "US"], "reserved for parts of the picture, and 24 of its 24"),
        ("start", ["early", "late"], "reserved for seconds, and 24 of its 24"),
        ("end", ["open", "closed"], "reserved for seconds, and 24 of its 24"),
        ("fps", ["fast", "slow"], "reserved for frame rates, and 24 of its 24"),
        ("split", ["5-fold", "2-fold"], "reserved for names of splits, and 24 of its 24"),
        ("key", ["C", "D"], "reserved for the names of the samples, and 22 of its 24"),
    ],
)
def test_a_reserved_column_that_holds_something_else_is_named_once(
    column: str,
    cells: list[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    medium(tmp_path / "0.mp4")
    lines = [f"{number}.mp4,{cells[number % 2]}\n" for number in range(24)]
    (tmp_path / "list.csv").write_text(f"path,{column}\n" + "".join(lines))
    words = ["shards", "build", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out")]
    assert main([*words, "--faces", "none"]) == 2
    error = capsys.readouterr().err
    assert f"column {column!r} is {told}" in error
    assert "rename it if it is a label" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_cells_that_are_wrong_among_right_ones_are_named_by_their_lines(tmp_path: Path) -> None:
    medium(tmp_path / "a.wav")
    medium(tmp_path / "a.mp4")
    (tmp_path / "list.csv").write_text("path,audio,start\na.mp4,a.wav,1\na.mp4,b.wav,0:01\n")
    with pytest.raises(ValueError, match=r"list.csv: line 3: start is '0:01'"):
        read_manifest(tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("path,audio\na.mp4,a.wav\na.mp4,b.wav\n")
    assert [row.audio_name for row in read_manifest(tmp_path / "list.csv")] == ["a.wav", "b.wav"]


# Generated tables: what is said in many ways is read as one; what is damaged is read, or refused
# in one line.

Truth = list[dict[str, Any]]


def draw_truth(rng: np.random.Generator) -> Truth:
    """Rows of one to five recordings: a path and labels of every kind."""
    columns: dict[str, Callable[[], Any]] = {
        "emotion": lambda: str(rng.choice(["joy", "très content", "a;b", 'say "x"', "1,5 x"])),
        "fold": lambda: int(rng.integers(-3, 40)),
        "valence": lambda: float(rng.normal()),
        "subject": lambda: f"{rng.integers(1000):04d}",
        "video": lambda: str(rng.integers(2**60, 2**62)),
        "digest": lambda: f"{rng.integers(10, 99)}e{rng.integers(10**6)}x",
    }
    chosen = rng.permutation(list(columns))[: rng.integers(len(columns) + 1)].tolist()
    return [
        {"path": f"rec {number}/é.mp4", **{name: columns[name]() for name in chosen}}
        for number in range(rng.integers(1, 6))
    ]


def render(truth: Truth, rng: np.random.Generator) -> bytes:
    """The rows as one program or another would write them."""
    delimiter = str(rng.choice([",", ";", "\t", "|"]))
    head = list(truth[0])
    lines = [[_written(row[name], delimiter, rng) for name in head] for row in truth]
    order = rng.permutation(len(head))
    table = [[line[place] for place in order] for line in [head, *lines]]
    if rng.integers(3) == 0:  # pandas' index
        names = ["", "Unnamed: 0"][: rng.integers(1, 3)]
        table = [[*(names if not n else [str(n)] * len(names)), *x] for n, x in enumerate(table)]
    if rng.integers(3) == 0:  # empty columns, and lines
        table = [[*line, "", ""] for line in table]
        table.insert(int(rng.integers(1, len(table) + 1)), [""] * len(table[0]))
    file = io.StringIO()
    quoting = csv.QUOTE_ALL if rng.integers(2) else csv.QUOTE_MINIMAL
    end = str(rng.choice(["\n", "\r\n"]))
    csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(table)
    text = file.getvalue()
    if quoting == csv.QUOTE_ALL and rng.integers(2):  # blanks between cells
        text = text.replace(f'"{delimiter}"', f'"{delimiter} "')
    if rng.integers(4) == 0:
        text = f"sep={delimiter}{end}{text}"
    return text.encode(str(rng.choice(["utf-8", "utf-8-sig", "utf-16"])))


def _written(value: Any, delimiter: str, rng: np.random.Generator) -> str:
    """A cell; where ``;`` separates, the comma is decimal."""
    if isinstance(value, float) and delimiter == ";":
        return f"{value:.17f}".replace(".", ",")
    return str(value)


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut, doubled, or replaced by what means something in a table."""
    mangled = bytearray(data)
    words = b'" , ; \n \0 \xff nan 1e999 key split \\ -'.split(b" ")
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(len(mangled) + 1))
        end = place + int(rng.integers(6))
        word = words[rng.integers(len(words))]
        mangled[place:end] = word if rng.integers(2) else bytes(rng.integers(32, 127, 2).tolist())
    return bytes(mangled)


def read_or_refuse(path: Path) -> list[ManifestRow] | str:
    """Rows with their keys, or the message; anything but a ValueError goes through."""
    try:
        rows = unique_keys(read_manifest(path))
    except ValueError as error:
        message = str(error)
        assert str(path) in message
        assert not set(message) & {"\n", "\r"}
        assert len(message) < 1000
        return message
    assert all(is_safe_key(row.key) for row in rows)
    assert len({row.key for row in rows}) == len(rows)
    return rows


@pytest.mark.slow
def test_generated_tables_are_read_rightly_or_refused_in_one_line(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    for number in range(NUM_TABLES // 2):
        rng = np.random.default_rng(number)
        truth = draw_truth(rng)
        path = tmp_path / f"list{rng.choice(['.csv', '.tsv', '.txt'])}"
        path.write_bytes(render(truth, rng))
        rows = read_or_refuse(path)
        assert not isinstance(rows, str), (number, rows)
        found = [{"path": row.name, **row.labels} for row in rows]
        for row, wanted in zip(found, truth, strict=True):
            assert row == pytest.approx(wanted), number
            assert {name: type(value) for name, value in row.items()} == {
                name: type(value) for name, value in wanted.items()
            }, number
    for number in range(NUM_TABLES // 2, NUM_TABLES):
        rng = np.random.default_rng(number)
        truth = draw_truth(rng)
        if number % 3:
            path, data = tmp_path / "damaged.csv", render(truth, rng)
        else:
            path = tmp_path / "damaged.jsonl"
            data = "\n".join(json.dumps(row) for row in truth).encode()
        path.write_bytes(damage(data, rng))
        outcomes[type(read_or_refuse(path)).__name__] += 1
    assert min(outcomes["str"], outcomes["list"]) > 100, outcomes


def test_any_text_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    heads = ["path", "path,key,start", "path;region;fps", "", "path,split,audio,boxes", "Path"]
    letters = np.array([*string.printable, "é", "\u2028", "\ufeff", "😀"])
    for number in range(300):
        rng = np.random.default_rng(number)
        body = "".join(rng.choice(letters, size=rng.integers(200)))
        path = tmp_path / f"any{rng.choice(['.csv', '.tsv', '.txt', '.json'])}"
        path.write_bytes(f"{rng.choice(heads)}\n{body}".encode())
        read_or_refuse(path)
