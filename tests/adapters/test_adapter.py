"""The adapter as a value: its state, its copies, its card; and the fingerprint of a base."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loradar.adapters import Card, fingerprint, full_adapter, init_adapter, load, merge_weights, plug, save, verify
from loradar.core.errors import BadFileError, WrongBaseError
from loradar.core.modules import Wrapper
from tests.adapters.tiny import Centred, images, resnet, snapshot, step, trained, vit


def test_a_copy_is_of_its_own() -> None:
    base = resnet()
    adapter = trained(base, "block-conv1", init="svd", norm="owned")
    other = adapter.to("cpu")
    assert torch.equal(plug(base, other)(images()), plug(base, adapter)(images()))
    assert [p.requires_grad for p in other.parameters()] == [True] * len(adapter.parameters())
    for tensor in other.state().values():
        tensor.zero_()
    assert all(bool(delta.a.any()) for delta in adapter.deltas.values())


def test_an_adapter_elsewhere_is_refused_with_the_way_out() -> None:
    base = resnet()
    adapter = init_adapter(base, target_modules="block-conv1").to("meta")
    with pytest.raises(WrongBaseError, match=r"is on meta, the base on cpu; adapter\.to\('cpu'\)"):
        plug(base, adapter)


def test_the_card_goes_to_json_and_back() -> None:
    card = Card(
        name="roa",
        target_modules=("conv1",),
        rank=4,
        lora_alpha=4.0,
        attack_target="base",
        data={"source": "digits", "train": 900},
        measured=[{"attack": "pgd", "correct": 412, "total": 500, "low": 0.1, "threat": "adaptive"}],
        selected_epoch=2,
    )
    assert Card.from_json(card.to_json()) == card
    assert Card.from_json('{"name": "of a later version", "unheard_of": 1}').name == "of a later version"


@pytest.mark.parametrize("text", ["", "[]", '{"rank": "many"}', '{"attack_target": "both"}'])
def test_what_is_not_a_card_is_refused(text: str) -> None:
    with pytest.raises(BadFileError, match="not an adapter's card"):
        Card.from_json(text)


def test_the_fingerprint_sees_every_value() -> None:
    base = vit()
    before = fingerprint(base)
    assert before == fingerprint(vit())
    assert len(before) == 64
    for tensor in base.state_dict().values():
        kept = tensor.clone()
        tensor.view(-1)[-1] += 1e-3
        assert fingerprint(base) != before
        tensor.copy_(kept)
    assert fingerprint(base) == before


def test_the_fingerprint_overlooks_what_does_not_change_the_function() -> None:
    base = resnet()
    before = fingerprint(base)
    for name, tensor in base.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor += 1
    assert fingerprint(base.to(memory_format=torch.channels_last)) == before

    class Bare(Wrapper):
        def __init__(self, wrapped: nn.Module) -> None:
            super().__init__()
            self.wrapped = wrapped

    assert fingerprint(Bare(base)) == before
    inner = base.wrapped
    assert isinstance(inner, nn.Module)
    assert fingerprint(inner) != before, "the normalisation is part of the function"
    assert fingerprint(Centred(inner)) == before


def test_making_an_adapter_leaves_the_base_and_the_global_generator() -> None:
    base = resnet()
    before, state = snapshot(base), torch.random.get_rng_state()
    init_adapter(base, target_modules="all-conv", rank=2, init="svd", norm="owned")
    init_adapter(base, target_modules="all-conv", rank=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(t, before[n]) for n, t in base.state_dict().items())


@pytest.mark.parametrize("make", [resnet, vit])
def test_a_full_adapter_with_its_head_is_fine_tuning_of_the_whole_model(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    base, tuned = make(), make()
    before = snapshot(base)
    adapter = full_adapter(base, head=True)
    step(plug(base, adapter), adapter, images(8))
    optimiser = torch.optim.Adam(tuned.parameters(), lr=1e-2)
    tuned.train()
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(tuned(images(8)), torch.arange(8) % 4).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    tuned.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    save(adapter, tmp_path / "a", base)
    assert verify(tmp_path / "a", base) == []
    again = load(tmp_path / "a")
    assert len(again.parameters()) == len(list(tuned.parameters()))
    merged = merge_weights(base, again)
    assert snapshot(merged).keys() == snapshot(tuned).keys()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, tuned.state_dict()[name], rtol=1e-4, atol=1e-5)
    assert torch.equal(merged(images()), plug(base, adapter).eval()(images()))
