"""A tuned model as an adapter: exact at full rank, errors as they are on disk, and what cannot be carried is named."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.adapters import factor, load, merge_weights, plug, save, verify
from loradar.adapters.layers import weight_of
from loradar.core.errors import BadConfigError, BadTargetError
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_WEIGHTS
from tests.adapters.test_budget import grouped
from tests.adapters.tiny import as_peft_writes, images, resnet, snapshot, vit


def tuned(base: nn.Module, *, frozen: tuple[str, ...] = ("pos_embed", "cls_token"), train: bool = True) -> nn.Module:
    """A copy of `base` after two steps of ordinary training of all but what is `frozen`."""
    model = copy.deepcopy(base).train(train)
    own = [p for name, p in model.named_parameters() if not name.endswith(frozen)]
    optimiser = torch.optim.Adam(own, lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(model(images(8)), torch.arange(8) % 4).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model.eval()


class Attentive(nn.Module):
    """torch's own attention, whose projections are used without their layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        logits: Tensor = self.fc(self.attention(x, x, x)[0].mean(1))
        return logits


def attentive() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attentive().eval()


MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "resnet": resnet,
    "vit": vit,
    "grouped": grouped,
    "attention": attentive,
}
every = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


@every
@pytest.mark.parametrize("train", [True, False])
def test_exact_at_full_rank(make: Callable[[], nn.Module], train: bool, tmp_path: Path) -> None:
    base = make()
    other, before = tuned(base, train=train), snapshot(base)
    found = factor(base, other, rank="<=1000")
    assert found.error < 1e-6
    save(found.adapter, tmp_path / "a", base)
    assert verify(tmp_path / "a", base) == []
    again, x = load(tmp_path / "a"), images()
    expected = other(x)
    assert not torch.allclose(base(x), expected, atol=1e-2)
    for model in (plug(base, again).eval(), merge_weights(base, again)):
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


@every
def test_the_error_is_that_of_the_file_and_the_least_there_is(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    base = make()
    other = tuned(base)
    found = factor(base, other, rank=2)
    save(found.adapter, tmp_path / "a", base)
    merged, lost, whole = load(tmp_path / "a"), 0.0, 0.0
    assert set(found.adapter.ranks.values()) == {2}
    for layer, error in found.errors.items():
        own, after = (weight_of(unwrap(model), layer).detach().double() for model in (base, other))
        change = (after - own).flatten(1)
        a, b = merged.deltas[layer].factors()
        rest = change - merged.deltas[layer].scale * b.double() @ a.double()
        assert float(rest.norm() / change.norm()) == pytest.approx(error, rel=1e-5)
        values = torch.linalg.svdvals(change)
        assert error == pytest.approx(float(values[2:].norm() / values.norm()), rel=1e-4)
        lost, whole = lost + float(rest.square().sum()), whole + float(change.square().sum())
    assert found.error == pytest.approx((lost / whole) ** 0.5, rel=1e-5)
    assert merged.card.data["factored"] == {"relative_error": found.error}


@pytest.mark.parametrize("make", [resnet, vit])
def test_peft_reads_it_biases_included(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft, of the extra 'peers', is not installed")
    base = make().wrapped
    assert isinstance(base, nn.Module)
    other, x = tuned(base), images()
    found = factor(base, other, rank=3)
    expected = plug(base, found.adapter).eval()(x)
    save(found.adapter, tmp_path / "a", base)
    read = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "a")).eval()
    torch.testing.assert_close(read(x), expected, rtol=1e-4, atol=1e-4)
    as_peft_writes(tmp_path / "a")
    torch.testing.assert_close(merge_weights(base, load(tmp_path / "a"))(x), expected, rtol=1e-4, atol=1e-4)


@every
def test_a_budget_of_bytes_holds(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    base = make()
    other = tuned(base)
    least = len(save(factor(base, other, rank=1).adapter, tmp_path / "a", base).joinpath(ADAPTER_WEIGHTS).read_bytes())
    budget = least + 1500
    found = factor(base, other, max_bytes=budget)
    save(found.adapter, tmp_path / "b", base)
    assert least < (tmp_path / "b" / ADAPTER_WEIGHTS).stat().st_size <= budget
    with pytest.raises(BadConfigError, match=f"expected {least} or more"):
        factor(base, other, max_bytes=least - 1)


def test_only_what_differs_is_owned() -> None:
    base = resnet()
    other = copy.deepcopy(base)
    with torch.no_grad():
        unwrap(other).get_parameter("layer2.0.conv1.weight").add_(0.1)
    adapter = factor(base, other, rank=1).adapter
    assert (list(adapter.deltas), dict(adapter.modules_to_save)) == (["layer2.0.conv1"], {})
    assert (adapter.card.head, adapter.card.norm) == ("", "frozen")


def test_a_layer_that_is_left_out_is_lost_whole() -> None:
    base = resnet()
    found = factor(base, tuned(base), rank={"layer1*": 0, "*": 2})
    assert {layer: error for layer, error in found.errors.items() if error == 1.0} == dict.fromkeys(
        (layer for layer in found.errors if layer.startswith("layer1")), 1.0
    )
    assert not any(layer.startswith("layer1") for layer in found.adapter.deltas)


def test_what_cannot_be_carried_is_refused_by_name() -> None:
    base = vit()
    with pytest.raises(BadTargetError, match=r"differs in cls_token, pos_embed, which no adapter carries; expected"):
        factor(base, tuned(base, frozen=("none of them",)), rank=2)
    with pytest.raises(BadTargetError, match=r"of another architecture: .* is in one of the two alone"):
        factor(base, resnet(), rank=2)
    with pytest.raises(BadTargetError, match=r"head.weight of \(5, 24\), the base \(4, 24\); expected the same"):
        factor(base, vit(classes=5), rank=2)
    with pytest.raises(BadConfigError, match="has the weights of the base"):
        factor(base, vit(), rank=2)
    shifted = tuned(base)
    shifted.get_buffer("mean").add_(0.1)
    with pytest.raises(BadTargetError, match=r"normalises images otherwise \(mean\)"):
        factor(base, shifted, rank=2)
    with pytest.raises(BadConfigError, match="rank is None and max_bytes is None; expected one of the two"):
        factor(base, tuned(base))
    with pytest.raises(BadTargetError, match="rank 99 exceeds 24, the smaller side of"):
        factor(base, tuned(base), rank=99)
