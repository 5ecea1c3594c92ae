import pytest
import torch
from hypothesis import given
from torch import Tensor

from loradar.core.balls import L2, Linf, Rectangle
from loradar.core.errors import BadConfigError
from loradar.core.types import Ball
from tests.core.strategies import directions, images, patient, radii, seeds, shapes

KINDS = [Linf, L2]


def length(kind: type[Linf] | type[L2], delta: Tensor) -> Tensor:
    """(batch,) norm of each image's perturbation."""
    return delta.flatten(1).abs().amax(1) if kind is Linf else delta.flatten(1).norm(dim=1)


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


@pytest.mark.parametrize("kind", KINDS)
@patient
@given(seed=seeds, shape=shapes, radius=radii)
def test_projection_is_inside_and_idempotent(
    kind: type[Linf] | type[L2], seed: int, shape: tuple[int, ...], radius: float
) -> None:
    ball, x = kind(radius=radius), images(seed, shape)
    once = ball.project(x + directions(seed + 1, shape, 3.0), x)
    assert (length(kind, once - x) <= radius + 1e-9).all()
    torch.testing.assert_close(ball.project(once, x), once, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@patient
@given(seed=seeds, shape=shapes, radius=radii)
def test_projection_is_the_nearest_point(
    kind: type[Linf] | type[L2], seed: int, shape: tuple[int, ...], radius: float
) -> None:
    """For the projection p of z and any other point q of a convex set, <z - p, q - p> is at most 0."""
    ball, x = kind(radius=radius), images(seed, shape)
    z = x + directions(seed + 1, shape, 3.0)
    p, q = ball.project(z, x), ball.sample(x, seed)
    assert (inner(z - p, q - p) <= 1e-9).all()


@pytest.mark.parametrize("kind", KINDS)
@patient
@given(seed=seeds, shape=shapes, radius=radii)
def test_what_is_inside_stays(kind: type[Linf] | type[L2], seed: int, shape: tuple[int, ...], radius: float) -> None:
    ball, x = kind(radius=radius), images(seed, shape)
    inside = x + 0.99 * (ball.sample(x, seed) - x)
    torch.testing.assert_close(ball.project(inside, x), inside, rtol=0, atol=1e-12)
    assert (length(kind, inside - x) <= radius + 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
@patient
@given(seed=seeds, shape=shapes)
def test_steepest_has_length_one_and_gains_the_dual_norm(
    kind: type[Linf] | type[L2], seed: int, shape: tuple[int, ...]
) -> None:
    grad = directions(seed, shape)
    step = kind(radius=1.0).steepest(grad)
    torch.testing.assert_close(length(kind, step), torch.ones(shape[0], dtype=torch.float64))
    dual = grad.flatten(1).abs().sum(1) if kind is Linf else grad.flatten(1).norm(dim=1)
    torch.testing.assert_close(inner(step, grad), dual)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_gradient_gives_no_step(kind: type[Linf] | type[L2]) -> None:
    zero = torch.zeros(2, 3, 4, 4)
    assert torch.equal(kind(radius=1.0).steepest(zero), zero)
    assert torch.equal(kind(radius=0.0).project(zero + 1, zero), zero)


@pytest.mark.parametrize("kind", KINDS)
def test_sample_fills_the_ball_evenly(kind: type[Linf] | type[L2]) -> None:
    """In two dimensions, half of the points lie within radius / sqrt 2 of the centre."""
    x = torch.arange(3000).view(-1, 1, 1, 1).expand(-1, 1, 1, 2).double() / 3000
    delta = kind(radius=0.2).sample(x, 0) - x
    within = (length(kind, delta) <= 0.2 / 2**0.5).double().mean()
    assert abs(float(within) - 0.5) < 0.04
    assert delta.mean((0, 1, 2)).abs().max() < 0.01


@patient
@given(seed=seeds, shape=shapes)
def test_rectangle_lets_anything_inside_and_nothing_outside(seed: int, shape: tuple[int, ...]) -> None:
    x, other, grad = images(seed, shape), images(seed + 1, shape), directions(seed + 2, shape)
    mask = images(seed + 3, (shape[0], 1, *shape[2:])) < 0.5
    ball = Rectangle(mask=mask)
    wide = mask.expand(shape)
    for moved in (ball.project(other, x), ball.sample(x, seed)):
        assert torch.equal(moved[~wide], x[~wide])
    assert torch.equal(ball.project(other, x)[wide], other[wide])
    assert torch.equal(ball.steepest(grad), torch.where(wide, grad.sign(), 0.0))
    sampled = ball.sample(x, seed)
    assert sampled.min() >= 0
    assert sampled.max() <= 1


def test_balls_are_balls_and_keep_the_dtype() -> None:
    x = torch.rand(2, 3, 4, 4)
    balls: list[Ball] = [Linf(radius=0.1), L2(radius=0.1), Rectangle(mask=torch.ones(2, 1, 4, 4, dtype=torch.bool))]
    for ball in balls:
        for out in (ball.project(x + 0.5, x), ball.sample(x, 0), ball.steepest(x - 0.5)):
            assert out.dtype == torch.float32
            assert out.shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [-0.1, float("nan")])
def test_negative_radius_is_refused(kind: type[Linf] | type[L2], radius: float) -> None:
    with pytest.raises(BadConfigError, match="expected 0 or more"):
        kind(radius=radius)
