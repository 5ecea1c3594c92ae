"""Shared starts, residuals, trimming, truncation (section 8 of the meta-tuning method)."""

from math import floor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loradar.adapters import (
    Adapter,
    AdapterPool,
    add_weighted,
    check_shared_start,
    feature_extractor,
    init_adapter,
    init_delta,
    load,
    merge_weights,
    on_residual,
    plug,
    residual,
    save,
    truncate_spectrum,
    truncated,
)
from loradar.adapters.layers import fused_matrices, weight_of
from loradar.core.errors import BadConfigError, BadTargetError, WrongBaseError
from loradar.core.modules import unwrap
from tests.adapters.tiny import images, resnet, step, vit

BASES = {"resnet": (resnet(), "all-conv"), "vit": (vit(), "attention+mlp")}
every = pytest.mark.parametrize("kind", BASES)


def started(kind: str, **changes: object) -> Adapter:
    base, targets = BASES[kind]
    return init_adapter(base, target_modules=targets, rank=4, init="svd", head=False, fused="split", **changes)  # type: ignore[arg-type]


def moved(kind: str, seed: int) -> Adapter:
    """A member that has learnt something of its own from the shared start."""
    adapter = started(kind)
    step(plug(BASES[kind][0], adapter), adapter, images(8, seed))
    return adapter


@every
def test_the_start_changes_nothing(kind: str) -> None:
    base, adapter = BASES[kind][0], started(kind)
    assert torch.equal(merge_weights(base, adapter)(images()), base(images()))
    assert torch.allclose(plug(base, adapter)(images()), base(images()), atol=1e-5)
    on_floor = plug(residual(base, adapter), on_residual(adapter), check=False)
    assert torch.allclose(on_floor(images()), base(images()), atol=1e-5)


@every
def test_training_on_the_residual_is_training_on_the_base(kind: str) -> None:
    base, adapter = BASES[kind][0], started(kind)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    step(plug(residual(base, adapter), on_residual(adapter), check=False), adapter, images(8))
    plugged = plug(residual(base, adapter), on_residual(adapter), check=False)
    assert torch.allclose(merge_weights(base, adapter)(images()), plugged(images()), atol=1e-4)
    assert not torch.allclose(merge_weights(base, adapter)(images()), base(images()), atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_query_key_and_value_have_factors_of_their_own() -> None:
    adapter = started("vit")
    base = BASES["vit"][0]
    name = next(n for n in adapter.deltas if n.endswith("qkv"))
    delta = adapter.deltas[name]
    assert fused_matrices(unwrap(base), name) == 3
    assert delta.groups == 3
    assert delta.a.shape[0] == 12
    weight = weight_of(unwrap(base), name).detach()
    for own, a0, b0 in zip(weight.chunk(3), delta.a.chunk(3), delta.b.chunk(3), strict=True):
        u, s, vh = torch.linalg.svd(own.double(), full_matrices=False)
        assert torch.allclose((b0 @ a0).double(), u[:, :4] * s[:4] @ vh[:4], atol=1e-5)
    with pytest.raises(BadTargetError, match="do not fit"):
        init_delta(torch.zeros(9, 4), 2, "random", groups=2)


def test_a_vit_s_has_as_many_parameters_a_member_as_the_paper_says() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        small = timm.create_model("vit_small_patch16_224", num_classes=1)
    shapes = [
        (m.out_features, m.in_features, fused_matrices(small, n))
        for n, m in small.named_modules()
        if isinstance(m, nn.Linear) and n != "head"
    ]
    assert len(shapes) == 48
    assert sum(8 * (out + inner * groups) for out, inner, groups in shapes) == 663_552


@every
def test_a_member_goes_to_disk_and_back_to_the_bit(kind: str, tmp_path: object) -> None:
    base, adapter = BASES[kind][0], moved(kind, 1)
    again = load(save(adapter, f"{tmp_path}/member", base))
    assert torch.equal(merge_weights(base, again)(images()), merge_weights(base, adapter)(images()))
    assert {n: (d.groups, d.a.shape, d.b.shape) for n, d in again.deltas.items()} == {
        n: (d.groups, d.a.shape, d.b.shape) for n, d in adapter.deltas.items()
    }


@every
def test_identical_members_give_the_base_back(kind: str) -> None:
    base = BASES[kind][0]
    merged = add_weighted(AdapterPool({"a": started(kind), "b": started(kind)}), {"a": 0.3, "b": 0.7})
    for delta in merged.deltas.values():
        assert float(delta.matrix().detach().abs().max()) < 1e-6
    assert torch.allclose(merge_weights(base, merged)(images()), base(images()), atol=1e-5)


@every
def test_a_blend_is_the_residual_and_the_weighted_products(kind: str) -> None:
    base, pool = BASES[kind][0], AdapterPool({"a": moved(kind, 1), "b": moved(kind, 2)})
    merged = add_weighted(pool, {"a": 0.25, "b": 0.75})
    for name, delta in merged.deltas.items():
        parts = [(w, on_residual(pool[n]).deltas[name].matrix()) for n, w in (("a", 0.25), ("b", 0.75))]
        own = weight_of(unwrap(residual(base, pool["a"])), name)
        whole = weight_of(unwrap(base), name)
        expected = own.flatten(1) + sum((w * p for w, p in parts), torch.zeros_like(parts[0][1]))
        assert torch.allclose(whole.flatten(1) + delta.matrix(), expected, atol=1e-5)
        assert delta.b.shape[1] == 12, "two members of rank 4, and the start that they share once"


def test_members_of_other_starts_are_refused() -> None:
    pool = AdapterPool({"a": started("resnet"), "b": moved("resnet", 1)})
    check_shared_start(pool)
    odd = started("resnet")
    init_factors = odd.deltas["layer1.0.conv1"].init_factors
    assert init_factors is not None
    init_factors[0][0, 0] += 1e-3
    with pytest.raises(WrongBaseError, match=r"'c' and 'a' have different residual weights for layer1\.0\.conv1"):
        check_shared_start(AdapterPool({**pool, "c": odd}))
    fewer = init_adapter(BASES["resnet"][0], target_modules="block-conv1", rank=4, init="svd", head=False)
    with pytest.raises(WrongBaseError, match="differ in their layers"):
        check_shared_start(AdapterPool({**pool, "c": fewer}))
    random = init_adapter(BASES["resnet"][0], target_modules="all-conv", rank=4, head=False)
    with pytest.raises(WrongBaseError, match="different residual"):
        check_shared_start(AdapterPool({**pool, "c": random}))


@every
@settings(deadline=None, max_examples=8)
@given(keep=st.floats(0.05, 1))
def test_trimming_leaves_the_largest_singular_values(kind: str, keep: float) -> None:
    base, adapter = BASES[kind][0], MOVED[kind]
    cut, whole = merge_weights(base, truncate_spectrum(base, adapter, keep)), merge_weights(base, adapter)
    for name, delta in adapter.deltas.items():
        full, cut_down = (weight_of(unwrap(model), name).detach().flatten(1) for model in (whole, cut))
        for before, after in zip(full.chunk(delta.groups), cut_down.chunk(delta.groups), strict=True):
            u, s, vh = torch.linalg.svd(before.double(), full_matrices=False)
            rank = floor(keep * len(s) + 1e-9)
            assert torch.allclose(after.double(), u[:, :rank] * s[:rank] @ vh[:rank], atol=1e-5)
            assert int((torch.linalg.svdvals(after.double()) > 1e-5 * s[0]).sum()) == rank


MOVED = {kind: moved(kind, 1) for kind in BASES}


@every
def test_keeping_everything_is_the_identity(kind: str) -> None:
    assert truncate_spectrum(BASES[kind][0], MOVED[kind], 1.0) is MOVED[kind]


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(keep: float) -> None:
    with pytest.raises(BadConfigError, match="expected a share of the singular values"):
        truncate_spectrum(BASES["resnet"][0], MOVED["resnet"], keep)


@every
def test_truncation_says_what_it_lost(kind: str) -> None:
    adapter = MOVED[kind]
    lost = 0.0
    whole = 0.0
    small = truncated(adapter, 2)
    for name, delta in small.deltas.items():
        assert delta.b.shape[1] == 2
        exact = adapter.deltas[name].matrix().detach()
        lost += float((delta.matrix().detach() - exact).square().sum())
        whole += float(exact.square().sum())
    told = small.card.data["truncated"]
    assert told["rank"] == 2
    assert told["relative_error"] == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    all_of_it = truncated(adapter, 8)
    assert all_of_it.card.data["truncated"]["relative_error"] < 1e-4, "rank 4 and a start of rank 4"
    with pytest.raises(BadConfigError, match="expected 1 or more"):
        truncated(adapter, 0)


@every
def test_without_its_head_a_model_gives_what_the_head_sees(kind: str) -> None:
    base = BASES[kind][0]
    features = feature_extractor(base)(images())
    head = "fc" if kind == "resnet" else "head"
    layer = base.get_submodule("wrapped").get_submodule(head)
    assert torch.allclose(layer(features), base(images()), atol=1e-6)
    assert features.ndim == 2


@every
def test_a_head_for_other_classes_plugs_like_any_other(kind: str, tmp_path: object) -> None:
    base, head = BASES[kind][0], "fc" if kind == "resnet" else "head"
    features = feature_extractor(base)(images()).detach()
    modules_to_save = {
        f"{head}.weight": nn.Parameter(features[:2].clone()),
        f"{head}.bias": nn.Parameter(torch.zeros(2)),
    }
    adapter = Adapter(deltas=MOVED[kind].deltas, modules_to_save=modules_to_save, card=MOVED[kind].card)
    with pytest.raises(WrongBaseError, match="this base"):
        plug(base, adapter)
    own = adapter.with_card(head=head, classes=("cat", "dog"))
    again = load(save(own, f"{tmp_path}/task", base))
    assert again.card.classes == ("cat", "dog")
    assert plug(base, again)(images()).shape == (4, 2)
    assert torch.equal(merge_weights(base, again)(images()), merge_weights(base, own)(images()))
    with pytest.raises(WrongBaseError, match="this base"):
        plug(base, adapter.with_card(head=head, classes=("cat", "dog", "bird")))
