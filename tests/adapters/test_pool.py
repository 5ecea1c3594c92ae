"""Pools, and weighted sums of adapters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loradar.adapters import Adapter, AdapterPool, add_weighted, init_adapter, merge_weights, plug
from loradar.core.errors import BadConfigError, WrongBaseError
from tests.adapters.tiny import images, resnet, trained


def pool_of(base: nn.Module, **settings: object) -> AdapterPool:
    return AdapterPool({name: trained(base, "block-conv1", seed=i, **settings) for i, name in enumerate("abc")})


def test_a_pool_is_a_mapping_of_one_base() -> None:
    base = resnet()
    pool = pool_of(base)
    assert list(pool) == ["a", "b", "c"]
    assert len(pool) == 3
    assert isinstance(pool["a"], Adapter)
    assert pool.base_fingerprint == pool["a"].card.base_fingerprint
    assert repr(pool) == "AdapterPool('a', 'b', 'c')"
    with pytest.raises(WrongBaseError, match="a pool has one base"):
        AdapterPool({**pool, "d": init_adapter(resnet(seed=1), target_modules="block-conv1")})
    with pytest.raises(BadConfigError, match="given none"):
        AdapterPool({})


BASE = resnet()
POOL = pool_of(BASE, init="svd", lora_alpha=3.0, norm="owned")


@settings(deadline=None, max_examples=15)
@given(st.floats(-1, 2), st.floats(-1, 2))
def test_a_merge_is_the_weighted_sum_to_float_precision(first: float, second: float) -> None:
    weights = {"a": first, "b": second, "c": 1 - first - second}
    merged = add_weighted(POOL, weights)
    for name, delta in merged.deltas.items():
        expected = sum(w * POOL[n].deltas[name].matrix() for n, w in weights.items())
        assert torch.allclose(delta.matrix(), expected, atol=1e-5)  # type: ignore[arg-type]
    for name, tensor in merged.modules_to_save.items():
        if tensor.is_floating_point():
            expected = sum(w * POOL[n].modules_to_save[name] for n, w in weights.items())
            assert torch.allclose(tensor, expected, atol=1e-5)  # type: ignore[arg-type]
        assert tensor.dtype == POOL["a"].modules_to_save[name].dtype


def test_a_merge_is_an_adapter_again() -> None:
    merged = add_weighted(POOL, {"a": 0.5, "b": 0.5}, name="half")
    assert {d.rank for d in merged.deltas.values()} == {12}, "ranks add up: two of 4, and the start that they share"
    assert torch.allclose(plug(BASE, merged)(images()), merge_weights(BASE, merged)(images()), atol=1e-5)
    assert merged.card.name == "half"
    assert merged.card.data == {"merged": {"a": 0.5, "b": 0.5}}
    again = add_weighted(AdapterPool({"half": merged, "c": POOL["c"]}), {"half": 0.5, "c": 0.5})
    assert torch.allclose(
        merge_weights(BASE, again)(images()),
        merge_weights(BASE, add_weighted(POOL, {"a": 0.25, "b": 0.25, "c": 0.5}))(images()),
        atol=1e-4,
    )


def test_adapters_of_different_layers_merge() -> None:
    pool = AdapterPool(
        {"x": trained(BASE, "layer1.*.conv1", head=False), "y": trained(BASE, "layer?.*.conv1", head=False, rank=2)}
    )
    merged = add_weighted(pool, {"x": 2.0, "y": -1.0})  # nothing is averaged, so the weights are free
    expected = 2 * pool["x"].deltas["layer1.0.conv1"].matrix() - pool["y"].deltas["layer1.0.conv1"].matrix()
    assert torch.allclose(merged.deltas["layer1.0.conv1"].matrix(), expected, atol=1e-6)
    assert merged.card.target_modules == ("layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 0.5, "b": 0.6}, "sum to 1.1; expected 1"),
        ({"a": 0.5, "d": 0.5}, "no adapter 'd'"),
        ({"a": 0.0}, "one of them not 0"),
        ({"a": float("nan"), "b": 1.0}, "finite"),
        ({}, "one of them not 0"),
    ],
)
def test_weights_that_make_no_adapter_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(BadConfigError, match=message):
        add_weighted(POOL, weights)


def test_a_head_beside_none_is_refused() -> None:
    pool = AdapterPool({"with": POOL["a"], "without": init_adapter(BASE, target_modules="block-conv1", head=False)})
    with pytest.raises(BadConfigError, match=r"'without' does not replace fc\.weight"):
        add_weighted(pool, {"with": 0.5, "without": 0.5})
