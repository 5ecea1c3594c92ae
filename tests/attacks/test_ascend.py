import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import PGD, ascend
from loradar.attacks.objectives import loss_of
from loradar.core.balls import L2, Linf
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.core.losses import cross_entropy
from tests.attacks.toys import Constant, Net, answers, loss_gradient, pictures


def test_one_step_is_the_formula() -> None:
    x = pictures(3)
    weights = pictures(3, seed=1) - 0.5

    def objective(x_adv: Tensor) -> Tensor:
        return (weights * x_adv).flatten(1).sum(1)

    plain = ascend(objective, x, x, ball=Linf(radius=0.1), step_size=0.02, steps=1)
    torch.testing.assert_close(plain, (x + 0.02 * weights.sign()).clamp(0, 1))
    norm = weights.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    euclid = ascend(objective, x, x, ball=L2(radius=0.1), step_size=0.02, steps=1)
    torch.testing.assert_close(euclid, (x + 0.02 * weights / norm).clamp(0, 1))


def test_momentum_sums_gradients_of_mean_size_one() -> None:
    model, x = Net().double(), pictures(3, low=0.3, high=0.7)
    y = answers(model, x)
    expected, velocity = x, torch.zeros_like(x)
    for _ in range(4):
        grad = loss_gradient(model, expected, y)
        scale = torch.stack([image.abs().mean() for image in grad]).view(-1, 1, 1, 1)
        velocity = 0.7 * velocity + grad / scale
        expected = expected + 0.01 * velocity.sign()
    objective = loss_of(model, y, cross_entropy)
    found = ascend(objective, x, x, ball=Linf(radius=0.1), step_size=0.01, steps=4, momentum=0.7)
    torch.testing.assert_close(found, expected)


def test_linear_steps_shrink_in_equal_parts() -> None:
    x = torch.full((1, 1, 1, 1), 0.2)
    found = ascend(lambda v: v.flatten(1).sum(1), x, x, ball=Linf(radius=1), step_size=0.08, steps=4, schedule="linear")
    torch.testing.assert_close(found, x + 0.08 + 0.06 + 0.04 + 0.02)


def test_last_iterate_is_in_the_ball_though_steps_leave_it() -> None:
    x = pictures(2, low=0.4, high=0.6)
    far = ascend(lambda x_adv: x_adv.flatten(1).sum(1), x, x, ball=Linf(radius=0.05), step_size=0.04, steps=3)
    torch.testing.assert_close(far, x + 0.05)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_zero_gradient_moves_nothing(momentum: float) -> None:
    model, x = Constant((1.0, 2.0)), pictures(2)
    objective = loss_of(model, torch.tensor([0, 1]), cross_entropy)
    for ball in (Linf(radius=0.1), L2(radius=0.1)):
        assert torch.equal(ascend(objective, x, x, ball=ball, step_size=0.1, steps=2, momentum=momentum), x)


def test_tiny_gradients_still_count() -> None:
    x = pictures(2, low=0.3, high=0.7).float()
    tiny = ascend(
        lambda v: v.flatten(1).sum(1) * 1e-30, x, x, ball=Linf(radius=0.1), step_size=0.1, steps=2, momentum=1.0
    )
    torch.testing.assert_close(tiny, x + 0.1)


def test_tiny_gradients_count_as_much_as_any_in_the_momentum() -> None:
    x = torch.full((1, 1, 1, 4), 0.5)
    weights = iter([torch.tensor([1.0, 1.0, 1.0, 1.0]) * 1e-30, torch.tensor([-0.5, -1.5, -1.5, -1.5])])
    objective = lambda v: (v * next(weights)).flatten(1).sum(1)  # noqa: E731
    # the first value: 1 - 0.5 / 1.25 is still above 0; the others: 1 - 1.5 / 1.25 is below
    found = ascend(objective, x, x, ball=Linf(radius=0.4), step_size=0.1, steps=2, momentum=1.0)
    torch.testing.assert_close(found.flatten(), torch.tensor([0.7, 0.5, 0.5, 0.5]))


def test_start_is_not_touched_and_no_steps_give_it_back() -> None:
    x, start = pictures(2), pictures(2, seed=1)
    kept = start.clone()
    assert torch.equal(
        ascend(lambda v: v.flatten(1).sum(1), x, start, ball=Linf(radius=1), step_size=0.1, steps=0), kept
    )
    ascend(lambda v: v.flatten(1).sum(1), x, start, ball=Linf(radius=1), step_size=0.1, steps=2)
    assert torch.equal(start, kept)
    assert not start.requires_grad


def test_model_without_a_gradient_is_refused_in_words() -> None:
    class Closed(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(BadConfigError, match="no gradient"):
        PGD()(Closed(), pictures(1).float(), torch.tensor([0]))


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(BadConfigError, match="expected logits \\(batch, classes\\)"):
        PGD()(nn.Identity(), pictures(1), torch.tensor([0]))


def test_negative_label_is_refused() -> None:
    with pytest.raises(BadImagesError, match="none below 0"):
        PGD()(Net(), pictures(1).float(), torch.tensor([-1]))


def test_parameters_are_not_asked_for_gradients() -> None:
    """A weight whose gradient would raise: the inner loop asks for the images' alone."""

    class Forbidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, weight: Tensor) -> Tensor:  # noqa: ARG004
            return weight.clone()

        @staticmethod
        def backward(*_: object) -> Tensor:
            raise AssertionError("the parameter's gradient was computed")

    class Guarded(Net):
        def forward(self, x: Tensor) -> Tensor:
            features = self.layer2(self.layer1(x)).flatten(1)
            return nn.functional.linear(features, Forbidden.apply(self.fc.weight))

    x = pictures(1).float()
    assert not torch.equal(PGD(steps=1)(Guarded(), x, torch.tensor([0])), x)
