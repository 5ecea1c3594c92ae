"""What every adapter promises, whatever the layers it is on and however it starts."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loradar.adapters import Adapter, AdapterPool, Init, add_weighted, init_adapter, load, merge_weights, plug, save
from loradar.adapters.card import Norm
from loradar.core.errors import WrongBaseError
from tests.adapters.tiny import Centred, images, resnet, snapshot, step, vit


def odd_convolutions(seed: int = 0) -> nn.Module:
    """Grouped, dilated and reflecting convolutions, which a plain branch would get wrong or PEFT would."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [
            nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=2, groups=4, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding="same", dilation=2),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, 4),
        ]
        return Centred(nn.Sequential(*layers)).eval()


@dataclass(frozen=True)
class Case:
    make: Callable[..., nn.Module]
    targets: str
    start: Init = "random"
    norm: Norm = "frozen"
    rank: int = 2

    def fresh(self, base: nn.Module, seed: int = 0) -> Adapter:
        with warnings.catch_warnings():
            if self.start == "zeros":  # the warning has a test of its own
                warnings.simplefilter("ignore", UserWarning)
            return init_adapter(
                base,
                target_modules=self.targets,
                rank=self.rank,
                init=self.start,
                norm=self.norm,
                seed=seed,
                lora_alpha=3.0,
            )

    def trained(self, base: nn.Module, seed: int = 0) -> Adapter:
        adapter = self.fresh(base, seed)
        step(plug(base, adapter), adapter, images(8, seed))
        return adapter


CASES = {
    "blocks, random": Case(resnet, "block-conv1+stem"),
    "blocks, zeros": Case(resnet, "block-conv1+stem", "zeros"),
    "blocks, svd": Case(resnet, "block-conv1+stem", "svd"),
    "blocks, own statistics": Case(resnet, "block-conv1", norm="statistics"),
    "blocks, own gains": Case(resnet, "block-conv1", norm="affine"),
    "blocks, own normalisation": Case(resnet, "block-conv1", norm="owned"),
    "every convolution": Case(resnet, "all-conv"),
    "transformer, random": Case(vit, "attention+mlp"),
    "transformer, svd": Case(vit, "all-linear", "svd"),
    "odd convolutions, random": Case(odd_convolutions, "all-conv"),
    "odd convolutions, svd": Case(odd_convolutions, "all-conv", "svd"),
    "head alone": Case(resnet, "all-conv", rank=0),
    "head and statistics": Case(resnet, "all-conv", rank=0, norm="statistics"),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


def test_a_fresh_adapter_changes_nothing(case: Case) -> None:
    base, x = case.make(), images()
    adapter = case.fresh(base)
    assert torch.equal(plug(base, adapter)(x), base(x))
    assert torch.equal(merge_weights(base, adapter)(x), base(x))


def test_a_fresh_adapter_receives_gradient(case: Case) -> None:
    base = case.make()
    adapter = case.fresh(base)
    plugged = plug(base, adapter)
    F.cross_entropy(plugged(images()), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in adapter.parameters())
    moving = [bool((d.a.grad != 0).any() | (d.b.grad != 0).any()) for d in adapter.deltas.values()]  # type: ignore[union-attr]
    # both factors at zero never learn: known, warned of, and kept for comparison alone
    assert all(moving) if case.start != "zeros" else not any(moving)
    assert any(p.requires_grad and bool((p.grad != 0).any()) for p in adapter.modules_to_save.values())  # type: ignore[union-attr]


def test_the_base_is_bit_identical_after_training(case: Case) -> None:
    base, x = case.make(), images()
    before, logits = snapshot(base), base(x)
    flags = {n: (p.requires_grad, p.data_ptr(), p.stride()) for n, p in base.named_parameters()}
    modes = [m.training for m in base.modules()]
    hooks = [len(m._forward_hooks) for m in base.modules()]
    kinds = [type(m) for m in base.modules()]
    adapter = case.trained(base)
    if case.start != "zeros" or not case.rank:
        assert not torch.equal(plug(base, adapter)(x), logits)
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert {n: (p.requires_grad, p.data_ptr(), p.stride()) for n, p in base.named_parameters()} == flags
    assert all(p.grad is None for p in base.parameters())
    assert [m.training for m in base.modules()] == modes
    assert [len(m._forward_hooks) for m in base.modules()] == hooks
    assert [type(m) for m in base.modules()] == kinds
    assert torch.equal(base(x), logits)  # unplugging is using the base


def test_statistics_move_only_where_they_are_owned(case: Case) -> None:
    base = case.make()
    adapter = case.fresh(base)
    plugged = plug(base, adapter).train()
    before = snapshot(plugged)
    with torch.no_grad():
        plugged(images(8, seed=5))
    moved = [n for n, t in plugged.state_dict().items() if not torch.equal(t, before[n])]
    assert all("running" in n or "tracked" in n for n in moved)
    statistics = [n for n in before if n.endswith(("running_mean", "running_var"))]
    assert len([n for n in moved if "running" in n]) == (len(statistics) if case.norm in ("statistics", "owned") else 0)


def test_saved_loaded_and_plugged_gives_the_same_bits(case: Case, tmp_path: Path) -> None:
    base, x = case.make(), images()
    adapter = case.trained(base)
    again = load(save(adapter, tmp_path / "adapter", base))
    assert again.card == adapter.card
    assert torch.equal(plug(base, again)(x), plug(base, adapter)(x))
    assert torch.equal(merge_weights(base, again)(x), merge_weights(base, adapter)(x))
    assert [p.shape for p in again.parameters()] == [p.shape for p in adapter.parameters()]
    assert list(again.state()) == list(adapter.state())


def test_folded_computes_what_plugged_does(case: Case) -> None:
    base, x = case.make(), images()
    adapter = case.trained(base)
    folded = merge_weights(base, adapter)
    assert torch.allclose(folded(x), plug(base, adapter)(x), atol=2e-5)
    assert not any(p.requires_grad for p in folded.parameters())
    assert not any(m._forward_hooks for m in folded.modules())
    assert folded.state_dict().keys() == base.state_dict().keys()
    before = folded(x)
    step(plug(base, adapter), adapter, x)
    assert torch.equal(folded(x), before), "a folded model is of its moment"


def test_another_base_is_refused_with_both_fingerprints(case: Case) -> None:
    base, other = case.make(), case.make(seed=1)
    adapter = case.fresh(base)
    theirs = case.fresh(other).card.base_fingerprint
    for apply in (plug, merge_weights):
        with pytest.raises(WrongBaseError) as caught:
            apply(other, adapter)
        assert adapter.card.base_fingerprint[:12] in str(caught.value)
        assert theirs[:12] in str(caught.value)


def test_merging_one_adapter_with_weight_1_is_itself(case: Case) -> None:
    base, x = case.make(), images()
    adapter = case.trained(base)
    pool = AdapterPool({"one": adapter, "other": case.trained(base, seed=1)})
    merged = add_weighted(pool, {"one": 1.0})
    assert torch.equal(plug(base, merged)(x), plug(base, adapter)(x))


def test_two_threads_with_two_adapters_on_one_base(case: Case) -> None:
    base, x = case.make(), images()
    adapters = [case.trained(base, seed) for seed in (0, 1)]
    expected = [plug(base, adapter)(x).detach() for adapter in adapters]

    def use(which: int) -> bool:
        with torch.no_grad():
            return all(torch.equal(plug(base, adapters[which])(x), expected[which]) for _ in range(3))

    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(use, [0, 1, 0, 1]))
