"""Whatever a user calls an adapter, a class or a domain is shown as it is, and changes nothing else."""

import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markupsafe import Markup

from loradar.core.markdown import code, text
from loradar.report.files import read_report, write_report
from loradar.report.guards import Cost, CostPoint, Reliability
from loradar.report.page import render
from loradar.report.plots import bars_svg, cost_svg, eps_svg, reliability_svg
from loradar.report.schema import Report
from tests.report.conftest import few_shot, few_shot_row, guarding, hardening

Make = Callable[[str, str], Report]

EVIL = [
    *("$^$", "$\\frac{1}{$", "a$b$c", "[red]", "[/]", ":smile:", "[x](y)", "![x](y)", "<b>", "</details>", "<script>x"),
    *(
        "&amp;",
        "&",
        '"',
        "'",
        "|",
        "a|b",
        "\\",
        "\\|",
        "*x*",
        "_x_",
        "__init__",
        "`",
        "``a`",
        "~~x~~",
        "# x",
        "- x",
        "1. x",
    ),
    *("> x", "+ x", "=", "---", "{{ x }}", "{% x %}", "%s", "{0}", "@0@", "@1@nn", "#010203", "url(#x)", 'id="x"', "_"),
    *(
        "日本語",
        "😀",
        "ب",
        "é",
        "\u202e",
        "\u2067a\u200f",
        "\x1b[31mred",
        "bell\x07\x7f\x9b",
        "x" * 300,
        "-->",
        "]]>",
        "a\nb",
        "a\tb",
        "average",
        "none",
        "base",
        "_hidden",
    ),
]
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


class Shown(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.feed(str(page))  # not Markup, whose parts would be escaped again
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def one_line(name: str) -> str:
    """As a page shows it: runs of white space are one, what a terminal obeys and what turns the direction is spelled out."""
    spelled = (letter.encode("unicode_escape").decode() if is_spelled(letter) else letter for letter in name)
    return " ".join("".join(spelled).split())


def is_spelled(letter: str) -> bool:
    return letter not in "\n\t" and (unicodedata.category(letter) == "Cc" or letter in "\u202e\u2067\u200f")


def plain(page: str) -> str:
    return " ".join(Shown(re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)).text.split())


@pytest.fixture
def _no_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawings take most of the time, and have a test of their own."""
    monkeypatch.setattr(
        "loradar.report.plots._svg", lambda _draw, *, key, **_: Markup('<svg id="{}"></svg>').format(key)
    )


@pytest.mark.usefixtures("_no_drawings")
@pytest.mark.parametrize("make", [hardening, guarding, few_shot])
@pytest.mark.parametrize("name", EVIL)
def test_names_are_shown_as_they_are(make: Make, name: str, tmp_path: Path) -> None:
    report = make(name, name)
    page = write_report(report, tmp_path)
    assert read_report(tmp_path) == report
    html = page.read_text()
    assert one_line(name) in plain(html)
    assert one_line(name) in plain(MARKDOWN.render((tmp_path / "report.md").read_text()))
    if name not in ("base", "none", "average"):  # these mean something
        assert Shown(html).tags == Shown(render(make("roa", "cat"))[1]).tags


def test_a_drawing_shows_names_and_nothing_in_their_place() -> None:
    for start in range(0, len(EVIL), 8):
        # white space within a name is shown as a page shows it; of long names, the start
        names = [name for name in EVIL[start : start + 8] if name.isprintable() and len(name) < 30] + ["x" * 300]
        rows = [few_shot_row(0.5, domain=name, method=name) for name in names]
        points = tuple(CostPoint(label=name, passes=1, correct=1, total=2) for name in names)
        bins = {"counts": (9,), "confidences": (0.5,), "rights": (4,), "error": 0.1}
        curves = {name: [(0.1, rows[0]), (0.2, rows[0])] for name in names[:5]}
        drawings = [
            (names, bars_svg(rows, names[:5], key="a")),
            (names[:5], eps_svg(curves, norm="l2", key="b")),
            (names, reliability_svg([Reliability(model=name, **bins) for name in names], key="c")),  # type: ignore[arg-type]
            (names, cost_svg(Cost(forwards_per_image={}, points=points), key="d")),
        ]
        for drawn, drawing in drawings:
            shown = Shown(drawing).text
            assert all((name if len(name) < 30 else "xxx…") in shown for name in drawn), shown
            # in the place of a name stands nothing else
            assert set(re.findall(r"@\d+@n*", shown)) <= {"@0@", "@1@nn"}
            ET.fromstring(drawing)


def test_a_file_name_that_is_no_unicode_does_not_stop_a_report(tmp_path: Path) -> None:
    write_report(hardening("caf\udce9", "caf\udce9"), tmp_path)
    assert read_report(tmp_path).pictures[0].label == "caf\udce9"
    assert "caf\\udce9" in (tmp_path / "report.html").read_text()


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_text_is_text_in_markdown(name: str) -> None:
    cells = f"| a | b |\n|---|---|\n| {text(name)} | {code(name)} |\n"
    rows = re.findall(r"<td>(.*?)</td>", MARKDOWN.render(cells), flags=re.DOTALL)
    line = " ".join(name.split())
    assert [plain(cell) for cell in rows] == [line, line]
    assert plain(MARKDOWN.render(f"- {text(name)}\n")) == line
    assert plain(MARKDOWN.render(f"# {text(name)}\n")) == line
