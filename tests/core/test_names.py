"""Names of users' own become names of folders, and stay where they are put."""

import pytest

from loradar.core.errors import BadConfigError
from loradar.core.names import check_names
from loradar.fewshot.tasks import named_domain
from loradar.jobs.config import HardenConfig
from loradar.jobs.members import plan

ODD = ["", ".", "..", "../x", "/x", "a/b", "a\0b", "x" * 201, "é" * 101, "\ud800"]
NOT_EVERYWHERE = ["CON", "nul.txt", "Com1", "lpt9 .x", "a\\b", "C:x", "a*", "a\nb", "\x1b[31m", "x.", "x ", " ", "..."]


@pytest.mark.parametrize("name", [*ODD, *NOT_EVERYWHERE])
def test_a_name_that_no_folder_can_have_is_refused(name: str) -> None:
    with pytest.raises(BadConfigError, match=r"^an adapter is called .*; expected a name that a folder can have$"):
        check_names(["pgd", name], "an adapter")


def test_usual_names_are_taken() -> None:
    check_names(["pgd", "a.b", "[red]", "日本語", "console", "com10", "x" * 200], "an adapter")


@pytest.mark.parametrize(("one", "other"), [("A", "a"), ("\u00e9", "e\u0301"), ("ﬁ", "fi"), ("ß", "SS")])
def test_names_that_are_one_folder_on_some_disks_are_refused(one: str, other: str) -> None:
    with pytest.raises(BadConfigError, match="the same folder on some disks"):
        check_names([one, "x", other], "an adapter")
    check_names([one, one], "an adapter")  # who may be named twice is for others to say


def test_an_attack_cannot_be_called_as_a_baseline_of_another_one_is() -> None:
    with pytest.raises(BadConfigError, match="'x-fc-only', as a baseline of another one"):
        plan(HardenConfig(base="b", attacks=["x=pgd", "x-fc-only=pgd:steps=2"]))
    with pytest.raises(BadConfigError, match="'x-FC-only'"):
        plan(HardenConfig(base="b", attacks=["x=pgd", "x-FC-only=pgd:steps=2"]))


def test_names_of_attacks_and_domains_stay_in_the_out_folder() -> None:
    with pytest.raises(BadConfigError, match=r"an attack is called '\.\.'"):
        plan(HardenConfig(base="b", attacks=["..=pgd"]))
    with pytest.raises(BadConfigError, match=r"a domain is called '\.\./x'"):
        named_domain("../x=digits", size=(8, 8), seed=0)
