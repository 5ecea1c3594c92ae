"""What is descended."""

import pytest
import torch
from torch import nn

from loradar.training import clean_loss, distillation_loss, mixed_adversarial_loss

X, X_ADV = torch.rand(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
Y = torch.tensor([0, 1, 2, 0])


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def test_one_to_one_is_the_mean_of_both_halves() -> None:
    model = linear()
    halves = (clean_loss(model, X, Y) + clean_loss(model, X_ADV, Y)) / 2
    assert torch.allclose(mixed_adversarial_loss(model, X, X_ADV, Y), halves)


def test_what_clean_answers_have_moved_is_added() -> None:
    model, before = linear(), torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    added = mixed_adversarial_loss(model, X, X_ADV, Y, before=before, distill_weight=3.0) - mixed_adversarial_loss(
        model, X, X_ADV, Y
    )
    torch.testing.assert_close(added, 3 * distillation_loss(model(X), before))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_moving_is_the_divergence_from_before_to_now(temperature: float) -> None:
    now, before = torch.randn(2, 6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    p, q = ((one / temperature).softmax(1) for one in (before, now))
    by_hand = (p * (p / q).log()).sum(1).mean() * temperature**2
    assert float(distillation_loss(now, before, temperature=temperature)) == pytest.approx(float(by_hand))
    assert float(distillation_loss(before, before, temperature=temperature)) == pytest.approx(0, abs=1e-12)


def test_the_answers_before_receive_no_gradient() -> None:
    now, before = torch.randn(2, 6, 4).unbind()
    now.requires_grad_()
    before.requires_grad_()
    distillation_loss(now, before).backward()  # type: ignore[no-untyped-call]
    assert now.grad is not None and now.grad.abs().sum() > 0  # noqa: PT018
    assert before.grad is None
