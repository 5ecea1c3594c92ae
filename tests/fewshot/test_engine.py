"""What an attack on a task's models climbs."""

import pytest
from torch import nn

from loradar.attacks import parse_attack
from loradar.fewshot.engine import TaskModel, attacked_through
from loradar.fewshot.heads import HeadConfig
from loradar.fewshot.transduction import Transduction


def _model(name: str, head: HeadConfig) -> TaskModel:
    return TaskModel(name=name, features=nn.Identity(), is_fixed=True, head=head)


def test_models_that_answer_one_by_one_are_attacked_as_they_are() -> None:
    models = [_model("a", HeadConfig()), _model("b", HeadConfig(kind="ridge"))]
    assert attacked_through(models) == [models]


def test_models_with_transductive_heads_are_attacked_through_simpler_heads_too() -> None:
    rule = Transduction(rounds=3, prior=5)
    transductive = _model("a", HeadConfig(kind="ridge", transduction=rule))
    alone = _model("b", HeadConfig())
    tried = attacked_through([transductive, alone])
    assert tried[0] == [transductive, alone]
    assert [[model.key for model in models] for models in tried[1:]] == [
        [("a", HeadConfig(kind="ridge", transduction=Transduction(rounds=1, prior=5))), alone.key],
        [("a", HeadConfig(kind="ridge")), alone.key],
    ]


def test_what_is_simple_by_now_is_not_attacked_twice() -> None:
    once = _model("a", HeadConfig(transduction=Transduction(rounds=1)))
    assert [[model.key for model in models] for models in attacked_through([once])] == [
        [once.key],
        [("a", HeadConfig())],
    ]


KEPT_WHOLE = {"pgd": True, "pgd:restarts=2": False, "roa-quick": True, "autoattack": False, "pgd|fia": False}


@pytest.mark.parametrize("spec", KEPT_WHOLE)
def test_which_attacks_leave_a_batch_whole(spec: str) -> None:
    assert parse_attack(spec).traits.whole_batches == KEPT_WHOLE[spec]
