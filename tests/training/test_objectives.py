"""What is descended."""

from typing import Literal

import pytest
import torch
from torch import nn

from loradar.training import adversarial_loss, clean_loss, distillation_loss, mart_loss, trades_loss

X, X_ADV = torch.rand(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).unbind()
Y = torch.tensor([0, 1, 2, 0])


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))


def test_one_to_one_is_the_mean_of_both_halves() -> None:
    model = linear()
    halves = (clean_loss(model, X, Y) + clean_loss(model, X_ADV, Y)) / 2
    assert torch.allclose(adversarial_loss(model, X, X_ADV, Y), halves)


def test_what_clean_answers_have_moved_is_added() -> None:
    model, before = linear(), torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    added = adversarial_loss(model, X, X_ADV, Y, before=before, distill_weight=3.0) - adversarial_loss(
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


def logits_of(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    return model(X), model(X_ADV)


@pytest.mark.parametrize("clean_weight", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_dial_weighs_clean_against_attacked(clean_weight: float, smoothing: float) -> None:
    model = linear()
    by_hand = []
    for logits in logits_of(model):
        target = torch.full((4, 3), smoothing / 3)
        target[torch.arange(4), Y] += 1 - smoothing
        by_hand.append(-(target * logits.log_softmax(1)).sum(1).mean())
    expected = clean_weight * by_hand[0] + (1 - clean_weight) * by_hand[1]
    found = adversarial_loss(model, X, X_ADV, Y, clean_weight=clean_weight, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


def test_without_weight_clean_images_are_not_asked() -> None:
    model = linear()
    seen: list[int] = []
    model.register_forward_hook(lambda _module, args, _out: seen.append(len(args[0])))
    adversarial_loss(model, X, X_ADV, Y, clean_weight=0.0)
    assert seen == [len(X_ADV)]


@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_mart_is_its_formula(weight: float) -> None:
    clean, attacked = (logits.detach() for logits in logits_of(linear()))
    p, q = clean.softmax(1), attacked.softmax(1)
    total = torch.zeros(())
    for i, label in enumerate(Y.tolist()):
        wrong = max(float(q[i, k]) for k in range(3) if k != label)
        total = total - q[i, label].log() - torch.tensor(1 - wrong).log()
        total = total + weight * (p[i] * (p[i] / q[i]).log()).sum() * (1 - p[i, label])
    torch.testing.assert_close(mart_loss(clean, attacked, Y, weight=weight), total / 4)


def test_mart_is_finite_where_the_model_is_sure_and_wrong() -> None:
    attacked = torch.tensor([[0.0, 900.0, 0.0]], requires_grad=True)
    loss = mart_loss(attacked.detach(), attacked, torch.tensor([0]))
    (grad,) = torch.autograd.grad(loss, attacked)
    assert loss.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("objective", ["trades", "mart"])
def test_the_dial_is_the_weight_of_the_others_too(objective: Literal["trades", "mart"]) -> None:
    model = linear()
    formula = {"trades": trades_loss, "mart": mart_loss}[objective]
    expected = formula(*logits_of(model), Y, weight=3.0)
    torch.testing.assert_close(adversarial_loss(model, X, X_ADV, Y, objective=objective, clean_weight=0.25), expected)
