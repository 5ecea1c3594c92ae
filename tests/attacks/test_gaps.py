"""Images whose gradient is not finite: they stay images, go on being attacked, and are counted."""

import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import APGD, FGSM, FIA, MIFGSM, PGD, ROA, Pyramid, Smooth, without_gradient
from loradar.attacks.ascend import ascend
from loradar.core.balls import L2, Linf
from loradar.core.losses import cross_entropy
from loradar.core.types import Attack
from tests.attacks.toys import Constant, Net, answers, pictures


class Contrast(nn.Module):
    """Finite logits, and no gradient at a flat image: it divides by the contrast's square root, whose slope is infinite."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layer2 = nn.Conv2d(3, 4, 3, padding=1)
            self.fc = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        contrast = ((x - x.mean((1, 2, 3), keepdim=True)) ** 2).sum((1, 2, 3)).sqrt()
        logits: Tensor = self.fc(torch.cat([self.layer2(x).mean((2, 3)), contrast[:, None]], 1))
        return logits


FLAT = 1


def scene() -> tuple[Contrast, Tensor, Tensor]:
    model, x = Contrast().double(), pictures(4)
    x[FLAT] = 0.5
    # the flat image is labelled so that more contrast is the way to be misclassified
    y = answers(model, x)
    with torch.no_grad():
        model.fc.weight[:, 4] = torch.tensor([1.0, 1.0, 1.0])
        model.fc.weight[y[FLAT], 4] = -1
    return model, x, answers(model, x)


ATTACKS: list[Attack] = [
    *(make(norm=norm) for make in (FGSM, PGD, MIFGSM) for norm in ("linf", "l2")),
    *(PGD(norm=norm, random_start=False, restarts=n) for norm in ("linf", "l2") for n in (1, 3)),
    *(ROA(height=3, width=3, steps=5, search=s) for s in ("gradient", "coarse", "exhaustive")),
    *(APGD(norm=norm, steps=10) for norm in ("linf", "l2")),
    Smooth(cells=4),
    FIA(n_masks=3),
    Pyramid(),
    Pyramid(loss="cross_entropy", random_start=False),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.spec)
def test_an_image_without_a_gradient_is_still_attacked(attack: Attack) -> None:
    model, x, y = scene()
    x_adv = attack(model, x, y)
    assert bool(x_adv.isfinite().all())
    assert not torch.equal(x_adv[FLAT], x[FLAT])
    if not isinstance(attack, ROA | FIA):  # their aim is another
        with torch.no_grad():
            assert cross_entropy(model(x_adv), y)[FLAT] > cross_entropy(model(x), y)[FLAT]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.spec)
def test_the_others_of_its_batch_notice_nothing(attack: Attack) -> None:
    model, x, y = scene()
    others = torch.tensor([0, 2, 3])
    torch.testing.assert_close(attack(model, x, y)[others], attack(model, x[others], y[others]), rtol=0, atol=1e-12)


def test_what_is_finite_is_followed_to_the_bit() -> None:
    """A gradient with a hole: the rest of it is climbed as before."""
    x = pictures(2)
    hole = torch.zeros_like(x)
    hole[0, 0, 0, 0] = torch.nan

    class Holed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, v: Tensor) -> Tensor:  # noqa: ARG004
            return v.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:  # noqa: ARG004
            return grad + hole

    for ball in (Linf(radius=0.1), L2(radius=0.1)):
        whole = ascend(lambda v: v.flatten(1).sum(1), x, x, ball=ball, step_size=0.01, steps=3)
        holed = ascend(lambda v: Holed.apply(v).flatten(1).sum(1), x, x, ball=ball, step_size=0.01, steps=3)
        assert torch.equal(holed[1], whole[1])
        assert holed[0, 0, 0, 0] == x[0, 0, 0, 0]
        assert (holed[0] - x[0]).flatten()[1:].abs().min() > 0


def test_images_without_a_gradient_are_counted() -> None:
    model, x, y = scene()
    assert without_gradient(model, x, y).tolist() == [False, True, False, False]
    assert without_gradient(Constant((1.0, 2.0)), x, torch.zeros(4, dtype=torch.int64)).all()
    with torch.no_grad():
        assert not without_gradient(Net(), x.float(), y).any()
