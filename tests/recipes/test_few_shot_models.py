"""What an attack on a task's voters climbs."""

from torch import nn

from loradar.fewshot import HeadRule, Transduction
from loradar.recipes.few_shot_models import Voter, attacked_through


def _voter(name: str, head: HeadRule) -> Voter:
    return Voter(name=name, model=nn.Identity(), is_fixed=True, head=head)


def test_voters_that_answer_one_by_one_are_attacked_as_they_are() -> None:
    voters = [_voter("a", HeadRule()), _voter("b", HeadRule(kind="ridge"))]
    assert attacked_through(voters) == [voters]


def test_voters_that_answer_together_are_attacked_through_simpler_heads_too() -> None:
    together = _voter("a", HeadRule(kind="ridge", transduction=Transduction()))
    tried = attacked_through([together])
    assert tried[0] == [together]
    assert [voters[0].key for voters in tried[1:]] == [
        ("a", HeadRule(kind="ridge", transduction=Transduction(rounds=1))),
        ("a", HeadRule(kind="ridge")),
    ]
