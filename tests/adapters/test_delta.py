"""A delta is its formula; how it starts; what is refused."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loradar.adapters import Delta, init_adapter, init_delta
from loradar.core.errors import BadConfigError, BadTargetError
from tests.adapters.tiny import resnet

SIDES = st.integers(1, 6)


@settings(deadline=None, max_examples=30)
@given(out=SIDES, inner=SIDES, kernel=st.integers(1, 3), rank=SIDES, scale=st.floats(-3, 3), seed=st.integers(0, 99))
def test_the_weight_is_scale_times_b_a(out: int, inner: int, kernel: int, rank: int, scale: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    columns = inner * kernel**2
    a, b, a0, b0 = (torch.randn(s, generator=g) for s in [(rank, columns), (out, rank), (1, columns), (out, 1)])
    delta = Delta(a=a, b=b, shape=(out, inner, kernel, kernel), scale=scale, init_factors=(a0, b0))
    expected = scale * (b.numpy().astype(float) @ a.numpy() - b0.numpy().astype(float) @ a0.numpy())
    np.testing.assert_allclose(delta.matrix().numpy(), expected, atol=1e-4)
    wide_a, wide_b = delta.factors()
    np.testing.assert_allclose((wide_b @ wide_a * scale).numpy(), expected, atol=1e-4)
    assert delta.weight().shape == (out, inner, kernel, kernel)
    assert wide_a.shape == (rank + 1, columns)


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadTargetError, match=r"\(2, 5\).*expected \(rank, 6\)"):
        Delta(a=torch.zeros(2, 5), b=torch.zeros(3, 2), shape=(3, 6))


def test_the_random_start_is_kaiming_uniform() -> None:
    delta = init_delta(torch.zeros(64, 16, 5, 5), 32)
    bound = (16 * 5 * 5) ** -0.5
    assert delta.a.abs().max() <= bound
    assert delta.a.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not delta.b.any()


def test_the_start_is_a_function_of_seed_and_name() -> None:
    weight = torch.zeros(8, 8)
    assert torch.equal(init_delta(weight, 2, seed=3, name="x").a, init_delta(weight, 2, seed=3, name="x").a)
    assert not torch.equal(init_delta(weight, 2, seed=3, name="x").a, init_delta(weight, 2, seed=4, name="x").a)
    assert not torch.equal(init_delta(weight, 2, seed=3, name="x").a, init_delta(weight, 2, seed=3, name="y").a)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_svd_start_takes_the_nearest_matrix_of_its_rank(scale: float) -> None:
    weight = torch.randn(6, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    delta = init_delta(weight, 3, "svd", scale=scale)
    singular = torch.linalg.svdvals(weight.flatten(1))
    rest = weight.flatten(1) - scale * (delta.b @ delta.a)
    # Eckart and Young 1936: nothing of this rank is nearer
    assert rest.norm().item() == pytest.approx(singular[3:].norm().item(), rel=1e-4)
    assert not delta.matrix().any()


def test_the_largest_rank_is_the_smaller_side() -> None:
    weight = torch.zeros(64, 3, 3, 3)
    assert init_delta(weight, 27).rank == 27
    with pytest.raises(BadTargetError, match=r"rank 64 exceeds 27, the smaller side of conv1\.weight"):
        init_delta(weight, 64, name="conv1.weight")
    with pytest.raises(BadTargetError, match="rank 0 is below 1"):
        init_delta(weight, 0)


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(BadConfigError, match="did you mean 'random'"):
        init_delta(torch.zeros(4, 4), 1, "randm")  # type: ignore[arg-type]


def test_both_factors_at_zero_warns_that_it_never_learns() -> None:
    with pytest.warns(UserWarning, match="never learns") as caught:
        init_adapter(resnet(), target_modules="block-conv1", init="zeros")
    assert len(caught) == 1, "once for all layers"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_adapter(resnet(), target_modules=(), init="zeros")
