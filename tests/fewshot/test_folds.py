"""Folds of a support, and the scale of logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loradar.fewshot.folds import MOST_FOLDS, TEMPERATURES, calibrated, can_be_left_out, folds_of


@given(counts=st.lists(st.integers(2, 30), min_size=2, max_size=6), seed=st.integers(0, 99))
def test_no_fold_holds_all_of_a_class(counts: list[int], seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    folds = folds_of(labels)
    assert can_be_left_out(labels, len(counts))
    assert int(folds.max()) + 1 == min(MOST_FOLDS, max(counts))
    for fold in range(int(folds.max()) + 1):
        left = torch.bincount(labels[folds != fold], minlength=len(counts))
        assert bool((left > 0).all()), "every class can be known by what is left"


def test_one_image_of_a_class_cannot_be_left_out() -> None:
    assert not can_be_left_out(torch.tensor([0, 0, 1]), 2)
    assert not can_be_left_out(torch.tensor([0, 0]), 2)


@pytest.mark.parametrize("scale", [0.5, 4.0, 64.0])
def test_the_scale_makes_probabilities(scale: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=draw)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    found, _ = calibrated(logits / scale, labels)
    assert found == pytest.approx(scale, rel=0.2)


def test_right_answers_alone_do_not_make_certain() -> None:
    labels = torch.arange(10) % 2
    logits = torch.nn.functional.one_hot(labels, 2).float()
    found, _ = calibrated(logits, labels)
    assert found < max(TEMPERATURES) / 100
    assert 0.8 < float((logits * found).softmax(1).max()) < 0.99
