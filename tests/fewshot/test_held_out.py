"""Heads answer images that they have not seen, and weights are chosen by these answers."""

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loradar.attacks import PGD
from loradar.fewshot.choosing import MOST_ATTACKED, Evidence, attacked_rows, evidence, greedy_soup
from loradar.fewshot.folds import folds_of
from loradar.fewshot.heads import HeadConfig, HeadKind
from loradar.fewshot.held_out import left_out, on_copies


def _support(each: int = 4, d: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(3 * each) % 3
    draw = torch.Generator().manual_seed(0)
    return torch.randn(len(labels), d, generator=draw) + 2 * nn.functional.one_hot(labels, d), labels


@pytest.mark.parametrize("kind", ["centroid", "ridge"])
def test_an_image_is_answered_without_itself(kind: HeadKind) -> None:
    features, labels = _support()
    rule = HeadConfig(kind=kind, penalty=0.5)
    held_out = left_out(rule, features, labels, 3)
    folds = folds_of(labels)
    for row in range(len(labels)):
        kept = folds != folds[row]
        own = rule(features[kept], labels[kept], 3)(features[row : row + 1])
        expected = own * held_out.temperature * features[row].norm() / held_out.length
        assert torch.allclose(held_out.logits[row], expected[0], atol=1e-4)
        # what it looks like has no say in who answers it: another image in its place changes no answer to others
        moved = features.clone()
        moved[row] += 5
        again = left_out(rule, moved, labels, 3)
        assert torch.allclose(
            again.answer(moved, again.rows)[row], rule(features[kept], labels[kept], 3)(moved[row, None])[0]
        )


@pytest.mark.parametrize("kind", ["centroid", "ridge"])
def test_held_out_answers_can_be_climbed_in_any_order(kind: HeadKind) -> None:
    features, labels = _support()
    held_out = left_out(HeadConfig(kind=kind), features, labels, 3)
    rows = torch.tensor([7, 2, 5])
    seen = features[rows].clone().requires_grad_()
    logits = held_out.head(rows)(seen)
    assert torch.allclose(logits, held_out.logits[rows], atol=1e-5)
    (gradient,) = torch.autograd.grad(logits[0, 0], seen)
    assert float(gradient[0].norm()) > 0
    assert float(gradient[1:].norm()) == 0


def test_copies_are_answered_by_the_head_of_all() -> None:
    features, labels = torch.eye(3, 6), torch.arange(3)
    copies = torch.cat([features, features]) + 0.1
    held_out = on_copies(HeadConfig(kind="ridge"), features, labels, 3, copies)
    assert held_out.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert held_out.logits.argmax(1).tolist() == [0, 1, 2, 0, 1, 2]


def test_attacked_images_are_of_all_classes() -> None:
    labels = torch.cat([torch.zeros(200, dtype=torch.long), torch.full((3,), 1), torch.full((100,), 2)])
    rows = attacked_rows(labels)
    assert len(rows) == MOST_ATTACKED
    counts = torch.bincount(labels[rows]).tolist()
    assert counts[1] == 3
    assert abs(counts[0] - counts[2]) <= 1


def test_evidence_is_of_the_attack_on_the_head_that_answers() -> None:
    images = torch.rand(12, 1, 3, 4, generator=torch.Generator().manual_seed(1)) * 0.5
    labels = torch.arange(12) % 3
    images += 0.4 * nn.functional.one_hot(labels, 12).view(12, 1, 3, 4)
    member = nn.Flatten()
    held_out = left_out(HeadConfig(kind="ridge"), member(images), labels, 3)
    found = evidence(held_out, images, member, PGD(eps=0.3, step_size=0.1, steps=5))
    assert int(found.right.sum()) > int(found.right_attacked.sum())
    assert torch.allclose(found.clean.exp(), held_out.logits.double().softmax(1).gather(1, labels[:, None])[:, 0])


def _evidence(clean: float, attacked: float, count: int = 20) -> Evidence:
    right = torch.ones(count, dtype=torch.bool)
    spread = 0.01 * torch.arange(count, dtype=torch.float64) / count
    return Evidence(clean=clean + spread, attacked=attacked + spread, right=right, right_attacked=right)


def _soup(found: dict[str, Evidence], robust: float, blends: float = -9.0, top: int = 3) -> dict[str, float]:
    """The soup, where every blend of several answers with a log-probability of `blends`."""

    def ask(weights: Mapping[str, float]) -> Evidence:
        return found[next(iter(weights))] if len(weights) == 1 else _evidence(blends, blends)

    return greedy_soup(list(found), ask, robust=robust, images=20, top=top)


def test_the_dial_says_whose_answers_count() -> None:
    found = {"base": _evidence(-0.1, -5.0), "robust": _evidence(-1.0, -1.0), "poor": _evidence(-2.0, -6.0)}
    assert _soup(found, 0) == {"base": 1.0, "robust": 0.0, "poor": 0.0}
    assert _soup(found, 0.5) == _soup(found, 1) == {"base": 0.0, "robust": 1.0, "poor": 0.0}


def test_a_blend_is_taken_where_it_answers_better() -> None:
    found = {"base": _evidence(-1.0, -5.0), "one": _evidence(-1.0, -1.0), "other": _evidence(-1.1, -1.1)}
    assert _soup(found, 1, blends=-0.5)["base"] == 0, "once in the soup, equal answers add nothing"
    assert _soup(found, 1, blends=-0.5) == {"base": 0.0, "one": 0.5, "other": 0.5}
    assert _soup(found, 1, blends=-0.5, top=1) == {"base": 0.0, "one": 1.0, "other": 0.0}
    assert _soup(found, 1, blends=-2.0) == {"base": 0.0, "one": 1.0, "other": 0.0}


@given(gain=st.floats(-2, 2), spread=st.floats(0.1, 5), robust=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_base_stays_unless_a_member_is_surely_better(gain: float, spread: float, robust: float, seed: int) -> None:
    noise = spread * torch.randn(2, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    base = _evidence(-1.0, -1.0)
    member = Evidence(
        clean=base.clean + gain + noise[0],
        attacked=base.attacked + gain + noise[1],
        right=base.right,
        right_attacked=base.right,
    )
    weights = _soup({"base": base, "member": member}, robust)
    error = math.sqrt((1 - robust) ** 2 * float(noise[0].var()) / 20 + robust**2 * float(noise[1].var()) / 20)
    better = gain + (1 - robust) * float(noise[0].mean()) + robust * float(noise[1].mean())
    if abs(better - error) > 1e-6:
        assert (weights["base"] == 1) == (better < error)
    assert sum(weights.values()) == pytest.approx(1)
