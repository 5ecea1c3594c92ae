"""Two-round masking: masks that cover, answers as Algorithm 1 gives them, certificates that hold against every patch."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.guard.masking import MaskSet, certified, pair_answers, patch_cleanser, two_round


@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 8), st.integers(1, 8), st.integers(2, 7))
def test_every_rectangle_lies_inside_a_mask(height: int, width: int, rows: int, columns: int, count: int) -> None:
    masks = MaskSet(height=rows, width=columns, count=count).masks((height, width))
    assert len(masks) <= count * count
    for top, left in itertools.product(range(height - rows + 1), range(width - columns + 1)):
        assert bool(masks[:, top : top + rows, left : left + columns].flatten(1).all(1).any())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BadConfigError, match="does not fit"):
        MaskSet(height=9, width=2).masks((8, 8))
    with pytest.raises(BadConfigError, match="2 masks or more"):
        MaskSet(height=2, width=2, count=1)


def by_the_book(table: Tensor) -> int:
    """Algorithm 1 for one image, written out."""
    count = len(table)
    single = [int(table[i, i]) for i in range(count)]
    if len(set(single)) == 1:
        return single[0]
    majority = max(sorted(set(single)), key=single.count)
    for i in range(count):
        if single[i] != majority and all(int(table[i, j]) == single[i] for j in range(count)):
            return single[i]
    return majority


@given(st.integers(0, 100_000))
def test_answers_are_those_of_the_algorithm(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    table = torch.randint(0, 2, (4, 4, 4), generator=draws)
    table = torch.where(torch.rand(4, 1, 1, generator=draws) < 0.5, table, table[:, :1, :1])
    table = torch.triu(table) + torch.triu(table, 1).transpose(1, 2)
    assert two_round(table).tolist() == [by_the_book(one) for one in table]


def brightness(x: Tensor) -> Tensor:
    """A classifier by how many pixels are bright: easily moved by a few of them, so that masks disagree."""
    bright = (x > 0.8).float().mean((1, 2, 3))
    return torch.stack([0.11 - bright, bright - 0.11], dim=1)


def test_cleansing_asks_less_and_answers_the_same() -> None:
    x = torch.rand(12, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.8, 1.1, 12).view(
        -1, 1, 1, 1
    )
    x = x.clamp(0, 1)
    masks = MaskSet(height=3, width=3, count=3).masks((12, 12))
    answers, passes = patch_cleanser(brightness, x, masks)
    assert torch.equal(answers, two_round(pair_answers(brightness, x, masks)))
    assert {float(p) for p in passes} <= {9.0, 45.0}
    assert len(set(passes.tolist())) == 2


def test_no_patch_changes_a_certified_answer() -> None:
    x = torch.rand(6, 1, 10, 10, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.5, 1.3, 6).view(
        -1, 1, 1, 1
    )
    x = x.clamp(0, 1)
    masks = MaskSet(height=2, width=2, count=3).masks((10, 10))
    table = pair_answers(brightness, x, masks)
    sure, answers = certified(table), two_round(table)
    assert 0 < int(sure.sum()) < 6
    for top, left, value in itertools.product(range(9), range(9), (0.0, 1.0)):
        attacked = x.clone()
        attacked[:, :, top : top + 2, left : left + 2] = value
        found, _ = patch_cleanser(brightness, attacked, masks)
        assert torch.equal(found[sure], answers[sure])
