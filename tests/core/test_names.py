"""Names of users' own become names of folders, and stay where they are put."""

import pytest

from loradar.core.errors import BadConfigError
from loradar.core.names import check_names
from loradar.fewshot.tasks import named_domain
from loradar.jobs.config import HardenConfig
from loradar.jobs.members import plan

ODD = ["", ".", "..", "../x", "/x", "a/b", "a\0b", "x" * 201, "é" * 101, "\ud800"]


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_no_folder_can_have_is_refused(name: str) -> None:
    with pytest.raises(BadConfigError, match=r"^an adapter is called .*; expected a name that a folder can have$"):
        check_names(["pgd", name], "an adapter")


def test_usual_names_are_taken() -> None:
    check_names(["pgd", "a.b", "[red]", "日本語", " ", "...", "x" * 200], "an adapter")


def test_names_of_attacks_and_domains_stay_in_the_out_folder() -> None:
    with pytest.raises(BadConfigError, match=r"an attack is called '\.\.'"):
        plan(HardenConfig(base="b", attacks=["..=pgd"]))
    with pytest.raises(BadConfigError, match=r"a domain is called '\.\./x'"):
        named_domain("../x=digits", size=(8, 8), seed=0)
