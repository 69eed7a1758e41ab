"""A report as a document: one Markdown, and one HTML file made of it."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from finetune.predictions import true_and_predicted
from finetune.record import read_run
from finetune.reporting.comparison import comparison, group_runs, settings_parts
from finetune.reporting.document import (
    Folded,
    ForeignMarkdown,
    Link,
    Picture,
    Section,
    Table,
    html_page,
    html_path,
    measured,
    number,
    output_console,
    range_of,
    signed,
    spread,
    to_markdown,
    write_document,
)
from finetune.reporting.values import scatter_figure
from hicmae.config import save_yaml
from hicmae.prediction.command import _means
from hicmae.prediction.timelines import Mark, _sentence
from tests.support.finetune_fixtures import VALUES, Train

HOSTILE = "<script>alert(1)</script> & <b>bold</b> | ![x](https://example.org/x.png)"


def picture(path: Path) -> Path:
    """A small PNG that says 130 dots an inch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (260, 130), "navy").save(path, dpi=(130, 130))
    return path


def test_a_document_is_written_in_both_formats_with_headings_links_and_folds(
    tmp_path: Path,
) -> None:
    drawn = picture(tmp_path / "run [1]" / "figures" / "a b.png")
    document = Section(
        title="Top",
        parts=[
            "Words.",
            "",
            Picture(path=drawn, caption="what [it] shows"),
            Section(title="Below", parts=[Table(columns=["a", "b"], rows=[["x", "1"]])]),
            Folded(
                summary="more",
                parts=[Section(title="Hidden", parts=[Link(path=drawn, text="there")])],
            ),
        ],
    )
    out = tmp_path / "deep" / "out.md"
    assert write_document(document, out, html=True) == [out, tmp_path / "deep" / "out.html"]
    text, page = out.read_text(), html_path(out).read_text()
    assert re.findall(r"^#+ .*$", text, re.MULTILINE) == ["# Top", "## Below", "## Hidden"]
    assert r"![what \[it\] shows](../run%20%5B1%5D/figures/a%20b.png)" in text
    assert "| a | b |\n| :--- | ---: |\n| x | 1 |" in text
    data = base64.b64encode(drawn.read_bytes()).decode()
    assert f'width="192" src="data:image/png;base64,{data}"' in page
    assert "<details><summary>more</summary>" in page
    assert page.count("</details>") == 1
    assert ">there</a>" in page


def test_names_that_look_like_markdown_are_shown_as_they_are(tmp_path: Path) -> None:
    names = ["a*b*", "__init__", "a[1](2).mp4", "`x`", "a\\|b", "&lt;", "a_b_c", "x|y"]
    rows = [[name, "1"] for name in names]
    document = Section(
        title="run *1*",
        parts=[
            Table(columns=["*c*", "n"], rows=[*rows, ["**pooled**", "2"]]),
            Folded(summary="a<b: 0.5", parts=["inside"]),
        ],
    )
    _, page = write_document(document, tmp_path / "out.md", html=True)
    text = page.read_text()
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", text)[::2]
    assert [html.unescape(cell) for cell in cells] == ["*c*", *names, "<strong>pooled</strong>"]
    assert re.search(r"<h1[^>]*>run \*1\*</h1>", text)
    assert "<details><summary>a&lt;b: 0.5</summary>" in text
    assert "| a_b_c | 1 |" in (tmp_path / "out.md").read_text()


def test_text_that_looks_like_html_is_shown_as_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    text = to_markdown(
        Section(title="T", parts=[HOSTILE, Table(columns=["c", "n"], rows=[[HOSTILE, "1"]])]),
        tmp_path,
    )
    text += "\n![x](https://example.org/x.png)\n\n<div onclick=x>\n\n<iframe src=x>"
    page = html_page(text, tmp_path, title="<T>")
    body = page.split("</head>")[1]
    assert not re.search(r"<(script|b|div onclick|iframe|img)\b", body)
    assert body.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert "no picture at https://example.org/x.png" in body
    assert "<title>&lt;T&gt;</title>" in page
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)


def test_links_to_other_reports_lead_to_their_html_where_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("#")
    (tmp_path / "a.html").write_text("")
    (tmp_path / "b.md").write_text("#")
    page = html_page("[a](a.md) [b](b.md)", tmp_path, title="t")
    assert re.findall(r'href="([^"]*)"', page) == ["a.html", "b.md"]


def test_markdown_of_others_is_fitted_under_the_headings_around_it(tmp_path: Path) -> None:
    text = "Text.\n\n## One\n\n[x](y/z%20z.md) [web](https://example.org/a.md)\n\n```\n## code\n```"
    document = Section(
        title="T",
        parts=[
            Section(title="S", parts=[ForeignMarkdown(text=text, folder=tmp_path / "sub", top=2)]),
        ],
    )
    found = to_markdown(document, tmp_path / "out")
    assert "\n### One\n" in found
    assert "[x](../sub/y/z%20z.md) [web](https://example.org/a.md)" in found
    assert "\n## code\n" in found


@pytest.mark.parametrize(
    ("cells", "rule"),
    [
        (["0.5", "n/a", "-0.1"], "---:"),
        (["< 0.001", "**0.3**", ""], "---:"),
        (["0.5 (best-on-test)", "0.4"], "---:"),
        (["joy", "0.4"], ":---"),
    ],
)
def test_numbers_are_aligned_right_and_words_left(cells: list[str], rule: str) -> None:
    table = Table(columns=["name", "cells"], rows=[["x", cell] for cell in cells])
    assert table.markdown().splitlines()[1] == f"| :--- | {rule} |"


def test_what_rounds_to_nothing_has_no_sign() -> None:
    little = -1e-4
    told = [number(little), signed(little), spread(little, 0.1), range_of(little, 0.1)]
    assert told == ["0.000", "+0.000", "0.000 ± 0.100", "0.000 to 0.100"]
    for value, shown in ((little, "-0.0001"), (-0.0, "+0.00")):  # predictions are of any unit
        assert _means({"valence": value}, is_class=False) == f"valence {shown}"
        assert _sentence(Mark(0.0, 1.0, "", {"valence": value})) == f"valence {shown}"


def test_settings_in_which_runs_differ_are_told(tmp_path: Path) -> None:
    same = {"epochs": 1, "recipe": {"shots": None, "lora": {"rank": 8}}, "seed": 0, "out": "a"}
    recipe = {"shots": 5, "lora": {"rank": 8}, "fusion": "global-depthwise"}
    configs = {
        "one": same,
        "alike": same | {"seed": 3, "out": "b"},
        "other": same | {"epochs": 7, "recipe": recipe},
        "old": None,
    }
    pairs: list[Any] = []
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        if config:
            save_yaml(tmp_path / name / "config.yaml", config)
        facts = SimpleNamespace(evaluates=None)
        pairs.append((name, SimpleNamespace(folder=tmp_path / name, facts=facts)))
    assert not settings_parts(pairs[:2])

    def shown(group: list[Any]) -> list[list[str]]:
        ((table,),) = (section.parts for section in settings_parts(group))
        return [[*row] for row in (table.columns, *table.rows)]  # type: ignore[union-attr]

    assert shown(pairs) == [
        ["run", "epochs", "recipe.shots", "recipe.fusion"],
        ["one", "1", "null", "default"],
        ["alike", "1", "null", "default"],
        ["other", "7", "5", "global-depthwise"],
        ["old", "not known", "not known", "not known"],
    ]
    assert shown([pairs[0], pairs[2]]) == [  # more settings than runs
        ["setting", "one", "other"],
        ["epochs", "1", "7"],
        ["recipe.shots", "null", "5"],
        ["recipe.fusion", "default", "global-depthwise"],
    ]


@pytest.mark.parametrize("metric", ["mse", "mse_valence", "values.mse", "values.mse_a.b"])
def test_a_score_in_the_unit_of_the_label_has_three_digits_of_any_size(metric: str) -> None:
    told = [number(2.346e-7, metric), spread(1234.5, 0.0123, metric), range_of(0.34, 1e-4, metric)]
    assert told == ["2.35e-07", "1234 ± 0.0123", "0.340 to 0.0001"]
    assert spread(0.5, 0.25, metric.replace("mse", "pcc")) == "0.500 ± 0.250"


def test_a_terminal_leaves_the_rule_to_the_title() -> None:
    table = Table(columns=["name", measured("UAR", "last")], rows=[["x", "1"]])
    assert "UAR, selection last" in table.markdown()
    assert table.terminal().columns[1].header == "UAR"


@pytest.mark.parametrize("width", [90, 40])
def test_a_table_of_more_scores_than_a_terminal_holds_is_turned(width: int) -> None:
    names = [measured(f"score_{number}", "last") for number in range(6)]
    rows = [["fold 1", *["0.123"] * 6], ["**all**", *["-0.5"] * 6]]
    table = Table(columns=["", *names], rows=rows)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    said = console.export_text()
    assert all(word in said for word in ("score_5", " all ", "0.123"))
    assert "selection" not in said
    assert (said.index("score_5") < said.index("fold 1")) == (width == 90)


def test_a_terminal_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["runs/[v2]", "[/]", ":joy:", "*calm*"]
    console = output_console()
    console.print(f"report: {names[0]}")
    table = Table(columns=["run", "class"], rows=[names[:2], names[2:], ["**all**", ""]])
    console.print(table)
    said = capsys.readouterr().out
    assert all(said.count(name) >= 1 for name in names)
    assert said.count("runs/[v2]") == 2
    assert " all " in said  # bold is Markdown's


@pytest.mark.usefixtures("drawn")
def test_benchmarks_whose_names_are_one_file_name_have_a_picture_each(
    trained: Path, tmp_path: Path
) -> None:
    run = read_run(trained / "run")
    pairs = [
        (
            name,
            dataclasses.replace(
                run,
                benchmark=dataclasses.replace(run.benchmark, name=name),
                facts=dataclasses.replace(run.facts, benchmark=name),
            ),
        )
        for name in ("a b", "a_b", "a_b-2")
    ]
    whole: dict[str, list[Any]] = {name: [] for name, _ in pairs}
    section = comparison(pairs, group_runs(pairs), tmp_path / "report.md", whole)
    shown = [part for own in section.parts if isinstance(own, Section) for part in own.parts]
    paths = [part.path for part in shown if isinstance(part, Picture)]
    assert len(set(paths)) == 3
    assert all(path.is_file() for path in paths)


def test_a_picture_calls_an_undefined_correlation_what_the_tables_call_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train
) -> None:
    constant = {number: {"labels": {"valence": 0.5}} for number in range(24)}
    run = read_run(train(VALUES, once=True, changes=constant))
    titles: list[str] = []

    def kept(figure: Any, path: Path, **_: Any) -> None:
        titles.extend(axes.get_title() for axes in figure.axes)

    monkeypatch.setattr("finetune.reporting.document.save", kept)
    true, predicted = true_and_predicted(run.benchmark, run.units)
    scatter_figure(run, true, predicted, tmp_path / "scatter.png", title="")
    assert titles[0] == "valence (CCC n/a)"
