"""The policy: what is taken when, what is forced and forbidden, and what is refused."""

import pytest

from loradar.core.errors import BadConfigError
from loradar.guard.policy import Policy
from tests.guard import toys


def test_defenses_are_applied_while_alarmed_in_one_order_masking_last() -> None:
    policy = Policy(responses={"roa": ("mask", "jpeg", "smooth")})
    assert policy.defenses_for("roa", "raised") == ("smooth", "jpeg", "mask")
    assert policy.defenses_for("roa", "calm") == ()
    assert policy.defenses_for("clean", "raised") == ()


def test_forced_is_always_and_forbidden_never() -> None:
    policy = Policy(responses={"roa": ("mask", "smooth")}, forced=("jpeg",), forbidden=("mask",))
    assert policy.defenses_for("clean", "calm") == ("jpeg",)
    assert policy.defenses_for("roa", "raised") == ("smooth", "jpeg")


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (Policy(responses={"rao": ("mask",)}), "names the threat 'rao'; did you mean 'roa'"),
        (Policy(responses={"roa": ("masq",)}), "names the defense 'masq'; did you mean 'mask'"),  # type: ignore[dict-item]
        (Policy(forced=("mask",), forbidden=("mask",)), "both forces and forbids 'mask'"),
    ],
)
def test_mistakes_are_said(policy: Policy, says: str) -> None:
    with pytest.raises(BadConfigError, match=says):
        policy.check(("roa", "fia"))


def test_a_voter_that_answers_alone_ends_the_gate_and_must_be_there() -> None:
    alone = toys.settings(policy=Policy(answered_by="patch"))
    assert (toys.settings().gated, alone.gated) == (True, False)
    assert (toys.settings().rule, alone.rule) == ("mean", "patch with monitor")
    with pytest.raises(BadConfigError, match="the guard has no voter 'patches'; did you mean 'patch'"):
        toys.settings(policy=Policy(answered_by="patches"))


@pytest.mark.parametrize("name", ["clean", "unknown"])
def test_the_names_of_what_is_no_threat_are_taken(name: str) -> None:
    with pytest.raises(BadConfigError, match="these names are taken"):
        Policy().check(("roa", name))
