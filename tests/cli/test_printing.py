"""Names are printed as they are, whatever they hold; tables fit; JSON is JSON."""

import io
import json
import math
import shutil
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from loradar.adapters import Card
from loradar.cli import show
from loradar.cli.few_shot import answered
from loradar.cli.printing import Facts, Rows, console, escape, note, show_json, to_json
from loradar.cli.printing import show as show_lines
from loradar.evaluation import AccuracyResult
from loradar.fewshot.classify import Answer
from loradar.jobs.predict import Prediction

EVIL = [
    "scan[1].png",
    "scan[a].png",
    "[red]fox.png",
    "leaf[/b].png",
    "[/]",
    "a:smile:.png",
    ":warning:",
    "$^$",
    "{task.total}",
    "%s %(name)s",
    "back\\slash\\[x]",
    "tab\there",
    "two\nlines",
    "\x1b[31mred",
    "bell\x07",
    "\u202e% 01\u202c",
    "\u2067a\u200f",
    "\udcff",
    "[link=file:///x]x[/link]",
    "日本語の名前",
    "http://example.org/[x]",
    "<b>&amp;",
    "123 True None 0x1f",
]


def rendered(part: RenderableType, width: int = 400) -> str:
    target = console()
    target.file, target.width = io.StringIO(), width
    target.print(part)
    return target.file.getvalue()


@pytest.mark.parametrize("name", EVIL)
def test_a_name_is_printed_as_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = Answer(image=name, answer=name, confidence=0.9)
    prediction = Prediction(image=name, classes=((name, 0.5),))
    for part in (
        *answered([answer]).text,
        *show.predictions([prediction]).text,
        Rows((name, "n"), [(name, 1)], title=name),
        Facts({name: name}),
    ):
        assert not isinstance(part, str)
        assert rendered(part).count(escape(name)) >= 2
    show_lines(f"a {name} b")
    note(f"a {name} b")
    said = capsys.readouterr()
    assert said.out == said.err == f"a {escape(name)} b\n"
    show_json(answered([answer]).data)
    assert json.loads(capsys.readouterr().out) == [{"image": name, "answer": name, "confidence": 0.9}]


@given(st.lists(st.tuples(st.text(), st.text(), st.integers()), min_size=1, max_size=4), st.integers(20, 120))
def test_a_table_fits_and_loses_nothing(rows: list[tuple[str, str, int]], width: int) -> None:
    shown = rendered(Rows(("name", "other", "count"), rows), width)
    assert all(cell_len(line) <= width for line in shown.splitlines())
    cells = Counter(letter for row in rows for cell in row for letter in escape(cell) if not letter.isspace())
    assert cells <= Counter(shown)


@given(st.text())
def test_escaped_text_is_one_printable_line(text: str) -> None:
    shown = escape(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in shown)
    assert not any(
        unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "LRI", "RLI", "FSI") for letter in shown
    )
    shown.encode()


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_wide_row_becomes_a_block_with_every_cell(width: int) -> None:
    heads = [f"column{i}" for i in range(9)]
    shown = rendered(Rows(heads, [[f"cell{i}" for i in range(9)]]), width)
    assert all(f"cell{i}" in shown for i in range(9))
    assert all(len(line) <= width for line in shown.splitlines())


def test_words_of_a_table_stay_whole_where_they_can() -> None:
    shown = rendered(Rows(("name", "what"), [("a-name-that-is-long", "several short words to wrap")]), 40)
    assert "a-name-that-is-long" in shown


@dataclass
class Nested:
    value: float
    place: Path


def test_json_has_no_nan_and_reads_back() -> None:
    data = [Nested(math.nan, Path("a")), {"x": (1, math.inf), 2: "é\ud800"}]
    assert json.loads(to_json(data)) == [{"value": None, "place": "a"}, {"x": [1, None], "2": "é\ud800"}]
    assert to_json(data).isascii()


@pytest.mark.parametrize("name", [name for name in EVIL if name != "\udcff"])
def test_adapters_list_and_show_print_names_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load` is what opens folders; here it gives a card of that name."""

    card = Card(name=name, classes=(name, "b"), trained_against=name, data={"source": name})
    adapter = SimpleNamespace(card=card, deltas={"layer": None}, ranks={"layer": 4})
    folder = tmp_path / escape(name).replace("/", "|")
    folder.mkdir()
    (folder / "adapter_model.safetensors").touch()
    monkeypatch.setattr(show, "load", lambda _: adapter)
    for output in (show.listing(tmp_path), show.card(folder)):
        (table,) = output.text
        assert not isinstance(table, str)
        assert rendered(table, 2000).count(escape(name)) >= 2
        assert json.loads(to_json(output.data))


@pytest.mark.parametrize("name", EVIL)
def test_a_report_s_summary_prints_names_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = AccuracyResult.count(model=name, attack=name, threat="transfer", correct=1, total=2, seed=0)
    monkeypatch.setattr(show, "read_report", lambda _: SimpleNamespace(rows=(row,)))
    table, *places = show.summary(Path(name) / "report.html", adapters=Path(name)).text
    assert not isinstance(table, str)
    assert escape(name).partition("=")[0] in rendered(table)
    assert [str(place) for place in places] == [f"adapters: {Path(name)}", f"report: {Path(name) / 'report.html'}"]


@pytest.mark.parametrize("name", ["[red]base", "base[/b]", "a:smile:", "$^$"])
def test_inspect_prints_the_place_of_a_base_as_it_is(name: str, base_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_folder, tmp_path / name.replace("/", "|"))
    output = show.inspection(str(folder), ["all-conv"], 1)
    facts = output.text[0]
    assert not isinstance(facts, str)
    assert str(folder) in rendered(facts)
    assert json.loads(to_json(output.data))["base"] == str(folder)


def test_a_console_reads_no_markup() -> None:
    target: Console = console()
    target.file = io.StringIO()
    target.print("[red]x[/red] :smile: 12")
    assert target.file.getvalue() == "[red]x[/red] :smile: 12\n"
