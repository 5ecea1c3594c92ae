"""One of several attacks for each image: equal shares, by image, drawn anew with another seed."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from loradar.attacks import FGSM, PGD, BaseAttack, RandomChoice, WorstOf
from loradar.core.errors import BadConfigError
from loradar.core.types import Images, Labels
from tests.attacks.toys import Net, answers, pictures


@dataclass(frozen=True, kw_only=True)
class Set(BaseAttack):
    """Every value of the image set to `value`."""

    spec_name: ClassVar[str] = "set"

    value: float

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:  # noqa: ARG002
        return torch.full_like(x, self.value)


def drawn(seed: int, count: int = 300) -> torch.Tensor:
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    attack = RandomChoice(attacks=(Set(value=0.0), Set(value=0.5), Set(value=1.0)), seed=seed)
    return attack(nn.Identity(), x, torch.zeros(count, dtype=torch.int64))[:, 0, 0, 0]


def test_every_image_gets_one_of_them_in_about_equal_shares() -> None:
    values = drawn(0).tolist()
    assert set(values) == {0.0, 0.5, 1.0}
    # 300 draws of a third: six standard deviations are 49
    assert all(abs(values.count(value) - 100) < 49 for value in (0.0, 0.5, 1.0))


def test_another_seed_draws_anew() -> None:
    assert torch.equal(drawn(0), drawn(0))
    assert 0.2 < float((drawn(0) == drawn(1)).float().mean()) < 0.5


def test_each_image_is_attacked_as_by_its_attack_alone() -> None:
    model, x = Net().double(), pictures(6)
    y = answers(model, x)
    parts = (FGSM(), PGD(steps=3))
    found = RandomChoice(attacks=parts)(model, x, y)
    alone = [attack(model, x, y) for attack in parts]
    assert all(any(torch.equal(found[i], one[i]) for one in alone) for i in range(6))


def test_training_draws_anew_at_every_step_all_the_way_down() -> None:
    attack = RandomChoice(attacks=(PGD(), WorstOf(attacks=(FGSM(), PGD()))))
    first, second = attack.reseeded(1), attack.reseeded(2)
    assert first.seed != second.seed
    assert first.attacks[0] != second.attacks[0]
    assert first.attacks[1] != second.attacks[1]


def test_no_attacks_are_refused() -> None:
    with pytest.raises(BadConfigError, match=r"attacks is \(\); expected one or more"):
        RandomChoice(attacks=())
