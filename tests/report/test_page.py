import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from loradar.report.page import to_html, to_markdown
from loradar.report.schema import Report
from tests.evaluation.toys import row

VOID = {"meta", "img", "br", "path", "use", "rect"}


class Outline(HTMLParser):
    """Collects ids and addresses, and checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.addresses += [value for key, value in attrs if key in ("src", "href", "xlink:href") and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return to_html(report)


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    return parser


def test_the_page_is_well_formed(outline: Outline) -> None:
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))


def test_the_page_fetches_nothing(page: str, outline: Outline) -> None:
    assert outline.addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in outline.addresses)
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)


def test_links_within_the_page_lead_somewhere(outline: Outline) -> None:
    assert {address[1:] for address in outline.addresses if address.startswith("#")} <= set(outline.ids)


def test_names_are_text_and_never_markup(report: Report, page: str, outline: Outline) -> None:
    assert "<b>roa|1</b>" in outline.text
    assert "<b>roa" not in page
    assert "<b>roa" not in to_markdown(report)


def test_every_figure_stands_with_its_count_and_interval(report: Report, outline: Outline) -> None:
    markdown = to_markdown(report)
    for figure in report.rows:
        for text in (outline.text, markdown):
            assert f"{figure.correct} of {figure.total}" in text
            assert f"{100 * figure.low:.1f}" in text
            assert f"{100 * figure.high:.1f}" in text


def test_the_page_says_what_must_be_said(outline: Outline) -> None:
    for words in ("leaks labels", "transfer", "adaptive", "164× smaller", "pgd:eps=4/255"):
        assert words in outline.text


def test_the_last_epoch_stands_beside_the_selected_one(report: Report, outline: Outline) -> None:
    for text in (outline.text, to_markdown(report)):
        assert re.search(r"97\.2[^.]*\(95\.4.98\.3\).*97\.4", text, flags=re.DOTALL)
        assert "0 of 1000" in text


@pytest.mark.parametrize("section", ["leaks", "checks", "pictures"])
def test_a_section_without_content_is_not_there(report: Report, page: str, section: str) -> None:
    assert f'id="{section}"' in page
    nothing: dict[str, Any] = {"curves": (), section: ()}
    without = to_html(dataclasses.replace(report, **nothing))
    assert f'id="{section}"' not in without
    assert f'href="#{section}"' not in without


def test_one_clean_figure_alone_makes_a_page() -> None:
    report = Report(rows=(row("base", "none", "clean", 455),), base={}, data={}, versions={})
    assert "91.0" in to_html(report)
    assert "91.0" in to_markdown(report)
    assert 'id="epochs"' not in to_html(report)


def test_markdown_tables_have_as_many_cells_in_every_line(report: Report) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", to_markdown(report), flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table
