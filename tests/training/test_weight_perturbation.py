"""Worst nearby weights: the size of the step, what comes back, and which gradient is taken."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.training import AWP, FitSettings, RawPerturbation, moved, perturbed_loss, trades_loss
from loradar.training.fit import _rise_and_fall


def leaves() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(3, 5, generator=draws).requires_grad_(), torch.randn(4, 3, generator=draws).requires_grad_()


def loss_of(a: Tensor, b: Tensor) -> Tensor:
    return ((b @ a) ** 3).sum() / 10 + b.sum()


@settings(deadline=None)
@given(st.floats(0, 0.1))
def test_the_relative_step_is_a_share_of_each_factor(gamma: float) -> None:
    a, b = leaves()
    gradients = torch.autograd.grad(loss_of(a, b), (a, b))
    for p, g, delta in zip((a, b), gradients, AWP(gamma=gamma).deltas((a, b), gradients), strict=True):
        assert float(delta.norm() / p.detach().norm()) == pytest.approx(gamma, abs=1e-6)
        if gamma > 1e-6:
            assert float(torch.cosine_similarity(delta.flatten(), g.flatten(), dim=0)) == pytest.approx(1, abs=1e-5)


def test_the_raw_step_is_a_multiple_of_the_gradient() -> None:
    a, b = leaves()
    gradients = torch.autograd.grad(loss_of(a, b), (a, b))
    assert torch.equal(RawPerturbation(step=0.5).deltas((a,), gradients[:1])[0], 0.5 * gradients[0])


def test_weights_come_back_to_the_bit_even_after_an_error() -> None:
    a, b = leaves()
    before = a.detach().clone()

    def fail() -> None:
        with moved((a, b), (torch.rand(3, 5), torch.rand(4, 3))):
            assert not torch.equal(a.detach(), before)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(a.detach(), before)


@pytest.mark.parametrize("perturbation", [RawPerturbation(step=1e-2), AWP(gamma=0.05)])
def test_the_gradient_is_that_of_the_worst_nearby_weights(perturbation: RawPerturbation | AWP) -> None:
    a, b = leaves()
    before = a.detach().clone(), b.detach().clone()
    loss = perturbed_loss(lambda: loss_of(a, b), [[a], [b]], perturbation)
    assert float(loss.detach()) == pytest.approx(float(loss_of(a, b).detach()), rel=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(a.detach(), before[0])
    assert torch.equal(b.detach(), before[1])
    ga, gb = torch.autograd.grad(loss_of(a, b), (a, b))
    da, db = perturbation.deltas((a, b), (ga, gb))
    alone = isinstance(perturbation, RawPerturbation)
    at_a = (a + da).detach().requires_grad_(), (b if alone else b + db).detach()
    at_b = (a if alone else a + da).detach(), (b + db).detach().requires_grad_()
    assert a.grad is not None
    assert b.grad is not None
    assert torch.allclose(a.grad, torch.autograd.grad(loss_of(*at_a), at_a[0])[0], rtol=1e-5)
    assert torch.allclose(b.grad, torch.autograd.grad(loss_of(*at_b), at_b[1])[0], rtol=1e-5)


@pytest.mark.parametrize("perturbation", [None, AWP(gamma=0.0), RawPerturbation(step=0.0)])
def test_without_a_step_it_is_the_plain_gradient(perturbation: AWP | None) -> None:
    a, b = leaves()
    plain = torch.autograd.grad(loss_of(a, b), (a, b))
    found = torch.autograd.grad(perturbed_loss(lambda: loss_of(a, b), [[a], [b]], perturbation), (a, b))
    for one, other in zip(plain, found, strict=True):
        assert torch.equal(one, other)


def test_either_direction_of_the_divergence() -> None:
    draws = torch.Generator().manual_seed(0)
    clean, attacked = torch.randn(2, 6, 3, generator=draws).requires_grad_().unbind()
    y = torch.arange(6) % 3
    p, q = clean.softmax(1), attacked.softmax(1)
    entropy = torch.nn.functional.cross_entropy(clean, y)
    forward = entropy + 6 * (p * (p / q).log()).sum(1).mean()
    backward = entropy + 6 * (q * (q / p).log()).sum(1).mean()
    found = trades_loss(clean, attacked, y), trades_loss(clean, attacked, y, kl="attacked-clean")
    assert torch.allclose(torch.stack(found), torch.stack([forward, backward]), rtol=1e-5)
    (through,) = torch.autograd.grad(trades_loss(clean, attacked, y) - entropy, clean)
    assert bool(through.any()), "the clean branch is not detached"


def test_the_rate_rises_and_falls() -> None:
    rates = [_rise_and_fall(step, rising=4, total=20) for step in range(21)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[12] == pytest.approx(0.5)
    assert rates[20] == pytest.approx(0)
    with pytest.raises(BadConfigError, match="warm_up is 3 of 3 epochs"):
        FitSettings(epochs=3, warm_up=3, schedule="cosine")
    with pytest.raises(BadConfigError, match="with the cosine schedule"):
        FitSettings(epochs=3, warm_up=1)
