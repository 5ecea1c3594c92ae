from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import FGSM, PGD, BaseAttack, WorstOf, strongest
from loradar.core.errors import BadConfigError
from loradar.core.losses import cross_entropy
from loradar.core.types import Images, Labels
from tests.attacks.toys import Net, answers, pictures


class Brightness(nn.Module):
    """Class 1 above a mean of one half, class 0 below, three times as sure for each step away."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1) * 6


@dataclass(frozen=True, kw_only=True)
class Set(BaseAttack):
    """Every value of the image set to `value`; `seen` counts what it was asked for."""

    spec_name: ClassVar[str] = "set"

    value: float
    seen: list[int]

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:  # noqa: ARG002
        self.seen.append(len(x))
        return torch.full_like(x, self.value)


def test_prefers_the_misclassified_then_the_higher_loss() -> None:
    x, y = pictures(2), torch.tensor([0, 1])  # dark is right for the first, bright for the second
    weak, dark, bright = (Set(value=value, seen=[]) for value in (0.45, 0.1, 0.9))
    found = WorstOf(attacks=(dark, weak, bright))(Brightness(), x, y)
    # dark fools the second image: it is not attacked again, and keeps what fooled it
    assert (found[1] == 0.1).all()
    assert (found[0] == 0.9).all()
    assert (dark.seen, weak.seen, bright.seen) == ([2], [1], [1])
    resisting = WorstOf(attacks=(dark, weak))(Brightness(), x, y)
    assert (resisting[0] == 0.45).all()  # right both times; the higher loss
    assert (WorstOf(attacks=(weak, dark))(Brightness(), x, y)[0] == 0.45).all()


def test_misclassified_at_a_lower_loss_is_stronger() -> None:
    class FirstPixel(nn.Module):
        """The three channels of the first pixel are the logits."""

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :, 0, 0]

    x, y = pictures(1), torch.tensor([0])
    right, wrong = (torch.tensor(v).double().view(1, 3, 1, 1).expand_as(x) for v in ([0.34, 0.33, 0.33], [0.9, 1, 0]))
    assert cross_entropy(FirstPixel()(wrong), y) < cross_entropy(FirstPixel()(right), y)
    assert torch.equal(strongest(FirstPixel(), x, y, [lambda *_: right, lambda *_: wrong]), wrong)


def test_stops_when_all_are_fooled() -> None:
    x, y = pictures(2), torch.tensor([1, 1])
    first, second = Set(value=0.1, seen=[]), Set(value=0.9, seen=[])
    WorstOf(attacks=(first, second))(Brightness(), x, y)
    assert second.seen == []


def test_never_weaker_than_each_member() -> None:
    model, x = Net().double(), pictures(8)
    y = answers(model, x)
    members = (FGSM(), PGD(steps=3))
    fooled = answers(model, WorstOf(attacks=members)(model, x, y)) != y
    for member in members:
        assert (fooled | (answers(model, member(model, x, y)) == y)).all()


def test_strongest_does_not_change_what_a_craft_returned() -> None:
    model, x = Net().double(), pictures(4)
    y = answers(model, x)
    stored = x.clone()
    found = strongest(model, x, y, [lambda *_: stored, lambda x, y: FGSM()(model, x, y)])
    assert torch.equal(stored, x)
    assert not torch.equal(found, x)
    assert (cross_entropy(model(found), y) >= cross_entropy(model(x), y)).all()


def test_no_attacks_are_refused() -> None:
    with pytest.raises(BadConfigError, match="expected one or more"):
        WorstOf(attacks=())
