"""What an attack on a task's voters climbs."""

import pytest
from torch import nn

from loradar.attacks import parse_attack
from loradar.fewshot.engine import Voter, attacked_through
from loradar.fewshot.heads import HeadConfig
from loradar.fewshot.transduction import Transduction


def _voter(name: str, head: HeadConfig) -> Voter:
    return Voter(name=name, model=nn.Identity(), is_fixed=True, head=head)


def test_voters_that_answer_one_by_one_are_attacked_as_they_are() -> None:
    voters = [_voter("a", HeadConfig()), _voter("b", HeadConfig(kind="ridge"))]
    assert attacked_through(voters) == [voters]


def test_voters_that_answer_together_are_attacked_through_simpler_heads_too() -> None:
    rule = Transduction(rounds=3, prior=5)
    together = _voter("a", HeadConfig(kind="ridge", transduction=rule))
    alone = _voter("b", HeadConfig())
    tried = attacked_through([together, alone])
    assert tried[0] == [together, alone]
    assert [[voter.key for voter in voters] for voters in tried[1:]] == [
        [("a", HeadConfig(kind="ridge", transduction=Transduction(rounds=1, prior=5))), alone.key],
        [("a", HeadConfig(kind="ridge")), alone.key],
    ]


def test_what_is_simple_by_now_is_not_attacked_twice() -> None:
    once = _voter("a", HeadConfig(transduction=Transduction(rounds=1)))
    assert [[voter.key for voter in voters] for voters in attacked_through([once])] == [
        [once.key],
        [("a", HeadConfig())],
    ]


KEPT_WHOLE = {"pgd": True, "pgd:restarts=2": False, "roa-quick": True, "autoattack": False, "pgd|fia": False}


@pytest.mark.parametrize("spec", KEPT_WHOLE)
def test_which_attacks_leave_a_batch_whole(spec: str) -> None:
    assert parse_attack(spec).traits.whole_batches == KEPT_WHOLE[spec]
