"""Catastrophic overfitting: seen, answered and said; and the copy that training attacks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from loradar.adapters import Norm, init_adapter, merge_weights, save
from loradar.attacks import FGSM, PGD
from loradar.core.types import NullProgress
from loradar.evaluation.attack_copy import AttackCopy
from loradar.jobs.crafting import Crafting, answer_overfitting, overfitted
from loradar.models import foldable_conv_bn, optimize_for_inference
from loradar.training import Epoch, Validation, WeightAverage
from tests.adapters.tiny import images, resnet, snapshot, trained, vit


def epoch(adversarial: int, number: int = 1, folder: Path = Path()) -> Epoch:
    return Epoch(epoch=number, loss=1.0, clean=80, adversarial=adversarial, total=100, folder=folder)


@pytest.mark.parametrize(
    ("now", "best", "expected"),
    [(0, 40, True), (15, 40, True), (25, 40, False), (39, 40, False), (3, 8, False), (40, 40, False)],
)
def test_only_a_collapse_that_chance_does_not_explain_counts(now: int, best: int, expected: bool) -> None:
    assert overfitted(epoch(now), epoch(best)) is expected


class Attending(nn.Module):
    """Tokens through nn.MultiheadAttention, whose weight has another name than that of other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens)
        logits: Tensor = self.head(self.norm(mixed).mean(1))
        return logits


def attending() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attending().eval()


class Listening(NullProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_training_goes_back_to_the_best_epoch_with_a_stronger_attack(tmp_path: Path) -> None:
    base = resnet()
    adapter = trained(base, "block-conv1", norm="owned")
    state = adapter.state()
    average = WeightAverage(state, decay=0.9)
    counts = iter([(80, 50, 100), (85, 2, 100)])
    validation = Validation(folder=tmp_path, measure=lambda: next(counts), save=lambda place: save(adapter, place))
    craft, progress = Crafting(attack=PGD(eps=8 / 255), steps=1), Listening()
    first = craft.attack_now
    best = {name: tensor.clone() for name, tensor in state.items()}

    def done(number: int) -> None:
        answer_overfitting(craft, state, average, tmp_path, "pgd", progress, validation.keep(number, 1.0))

    done(0)
    assert not progress.said
    assert craft.attack_now == first
    with torch.no_grad():
        for tensor in state.values():
            tensor.add_(1)
    done(1)
    assert all(torch.equal(state[name], tensor) for name, tensor in best.items())
    with average.applied():
        assert all(torch.equal(state[name], tensor) for name, tensor in best.items())
    stronger = craft.attack_now
    assert isinstance(first, FGSM)
    assert isinstance(stronger, FGSM)
    assert stronger.noise > first.noise
    assert "catastrophic overfitting in epoch 2 (2 of 100" in progress.said[0]
    assert stronger.spec in progress.said[0]


@pytest.mark.parametrize(
    ("make", "targets", "norm"),
    [
        *((resnet, "all-conv", norm) for norm in ("frozen", "statistics", "affine", "owned")),
        (vit, "all-linear", "affine"),
        (attending, "all", "owned"),
    ],
)
def test_the_refreshed_copy_has_the_bits_of_a_new_one(make: Callable[[], nn.Module], targets: str, norm: Norm) -> None:
    base, x = make(), images()
    before = snapshot(base)
    adapter = init_adapter(base, target_modules=targets, rank=2, norm=norm)
    pairs = foldable_conv_bn(base)
    copy = AttackCopy(base, adapter, "fp32", merge=pairs)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        with torch.no_grad():
            for name, tensor in adapter.state().items():
                if tensor.is_floating_point():
                    noise = torch.rand(tensor.shape, generator=generator)
                    tensor.add_(noise if name.endswith("running_var") else 0.1 * noise)
        expected = optimize_for_inference(merge_weights(base, adapter), "fp32", merge=pairs)
        assert torch.equal(copy.refreshed()(x), expected(x))
    assert not torch.equal(copy.model(x), base(x))
    after = base.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
