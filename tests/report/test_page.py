import dataclasses
import re
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from loradar.evaluation import Probe
from loradar.report.page import render
from loradar.report.schema import Report
from loradar.report.verdict import RULE, next_steps, verdicts
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
def pages(report: Report) -> tuple[str, str]:
    return render(report)


@pytest.fixture(scope="module")
def page(pages: tuple[str, str]) -> str:
    return pages[1]


@pytest.fixture(scope="module")
def markdown(pages: tuple[str, str]) -> str:
    return pages[0]


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return outlined(page)


def outlined(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    return parser


def test_every_page_is_well_formed_and_fetches_nothing(every_report: Report) -> None:
    page = render(every_report)[1]
    outline = outlined(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in outline.addresses)
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)
    assert {address[1:] for address in outline.addresses if address.startswith("#")} <= set(outline.ids)


def test_every_figure_stands_with_its_count_and_interval(report: Report, outline: Outline, markdown: str) -> None:
    for figure in report.rows:
        for text in (outline.text, markdown):
            assert f"{figure.correct} of {figure.total}" in text
            assert f"{100 * figure.low:.1f}" in text
            assert f"{100 * figure.high:.1f}" in text


def test_the_first_screen_answers(report: Report, outline: Outline) -> None:
    start = outline.text[: outline.text.index("At a glance", outline.text.index("Verdict"))]
    for words in ("resnet18-cifar, 10 classes", "digits/all, 500 images", "2025-01-31 12:00:00 UTC", "loradar 0.1.0"):
        assert words in start
    for verdict in verdicts(report):
        assert verdict.text in start
    for step in next_steps(report):
        assert step in start
    assert RULE in start


def test_the_page_says_what_must_be_said(outline: Outline) -> None:
    for words in (
        "leaks labels",
        "transfer",
        "adaptive",
        "164× smaller",
        "pgd:eps=8/255",
        "1 model measured for comparison",
    ):
        assert words in outline.text


def test_the_leak_test_says_its_power(outline: Outline, markdown: str) -> None:
    for text in (outline.text, markdown):
        assert re.search(r"any label\D*1\.2 % of the images\D*1\.6 % of the images\D*14 of 500 more", text)
        assert re.search(r"labels among the model's 2 likeliest classes[^\d]*none[^\d]*none[^\d]*9 of 500 more", text)
        assert "55.8" in text  # of images planted with a likely wrong label got it as the answer


def test_an_adaptive_figure_stands_with_its_effort_and_what_broke_it(report: Report) -> None:
    effort = dataclasses.replace(report.rows[-2], effort="standard")
    beaten = dataclasses.replace(report.batteries[0], probe=Probe(effort="full", total=100, right=3, broke=30))
    changed = dataclasses.replace(report, rows=(*report.rows[:-2], effort, report.rows[-1]), batteries=(beaten,))
    markdown, page = render(changed)
    assert "| adaptive, standard effort |" in markdown
    assert "standard effort)" in markdown.partition("## Figures")[0], "beside the verdict's figure"
    assert "full effort breaks 30 more of 100 images" in markdown.partition("## Figures")[0]
    assert "full effort breaks 30 more of 100 images" in page.partition('id="glance"')[0]
    assert re.search(r"\| itself \| 431 \| 421 \|", markdown)
    assert 'id="batteries"' in page
    assert 'id="batteries"' not in render(dataclasses.replace(report, batteries=()))[1]


def test_what_lies_folded(page: str) -> None:
    """Baselines, training, settings and versions; not the verdicts of adapters."""
    folded = outlined("".join(re.findall(r"<details.*?</details>", page, flags=re.DOTALL))).text
    assert "fc-only: no evidence" in folded
    assert "3.11.7" in folded
    assert "epoch 2 of 3" in folded
    assert "<b>roa|1</b>: NOT robust" not in folded


def test_the_last_epoch_stands_beside_the_selected_one(outline: Outline, markdown: str) -> None:
    for text in (outline.text, markdown):
        assert re.search(r"97\.2[^.]*\(95\.4.98\.3\).*97\.4", text, flags=re.DOTALL)
        assert "0 of 1000" in text


def test_a_picture_shows_the_base_beside_the_adapter(page: str) -> None:
    (answers,) = re.findall(r'<dl class="answers">(.*?)</dl>', page, flags=re.DOTALL)
    shown = re.findall(r"<d[td]>(?:<[^>]*>)?([^<]*)", answers)
    expected = ["true class", "cat", "roa|1, clean", "cat", "roa|1, attacked", "dog", "base, attacked", "not cat"]
    assert [re.sub(r"&lt;/?b&gt;", "", text) for text in shown] == expected


@pytest.mark.parametrize("section", ["leaks", "checks", "pictures"])
def test_a_section_without_content_is_not_there(report: Report, page: str, section: str) -> None:
    assert f'id="{section}"' in page
    nothing: dict[str, Any] = {"training": None, section: ()}
    without = render(dataclasses.replace(report, **nothing))[1]
    assert f'id="{section}"' not in without
    assert f'href="#{section}"' not in without


def test_one_clean_figure_alone_makes_pages_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # it cannot be imported
    report = Report(rows=(row("base", "none", "clean", 455),), base={}, data={}, versions={})
    assert all("91.0" in page for page in render(report))


def test_a_base_is_called_by_its_folder_and_its_architecture(report: Report) -> None:
    names = {
        "/home/me/runs/cars": "cars (resnet18-cifar)",
        "hub:me/cars@0123": "hub:me/cars@0123 (resnet18-cifar)",
        "weights/cars.pt:architecture=resnet18-cifar,num_classes=10": "cars.pt (resnet18-cifar)",
        "resnet18-cifar:pretrained=false": "resnet18-cifar",
    }
    for spec, name in names.items():
        for page in render(dataclasses.replace(report, base={**report.base, "spec": spec})):
            assert re.search(rf"Base\W.*{re.escape(name)}, 10 classes", page)


def test_an_empty_report_makes_pages() -> None:
    assert all(render(Report(rows=(), base={}, data={}, versions={})))


def test_markdown_tables_have_as_many_cells_in_every_line(every_report: Report) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", render(every_report)[0], flags=re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines() if "|" in line}
        # a line of unfitted attacks has no AUROC
        assert len(cells) == 1 or "done" in table, table
