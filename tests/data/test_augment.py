"""Crops and flips."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from loradar.core.errors import BadImagesError
from loradar.data import augment, varied


@given(st.integers(0, 2**31), st.integers(0, 4))
def test_each_image_is_a_crop_of_its_padded_self_or_of_its_mirror(seed: int, crop: int) -> None:
    x = torch.rand(6, 3, 5, 7)
    (out,) = augment((x,), crop=crop, flip=True, seed=seed)
    assert out.shape == x.shape
    padded = functional.pad(x, (crop,) * 4, mode="reflect") if crop else x
    windows = padded.unfold(2, 5, 1).unfold(3, 7, 1)  # (6, 3, rows, columns, 5, 7)
    shown = torch.stack([out, out.flip(3)])[:, :, :, None, None]
    found = (shown == windows).all(-1).all(-1).all(2)  # (2, 6, rows, columns)
    assert found.flatten(2).any(2).any(0).all()


def test_clean_and_adversarial_move_together() -> None:
    x = torch.rand(16, 3, 8, 8)
    delta = torch.randn(16, 3, 8, 8)
    out, out_adv, moved = augment((x, x + delta, delta), crop=3, flip=True, seed=1)
    assert torch.equal(out_adv, out + moved)
    assert not torch.equal(out, x)


def test_draws_are_spread_over_shifts_and_mirrors() -> None:
    row = torch.arange(9.0).expand(400, 1, 9, 9).contiguous()
    (out,) = augment((row,), crop=2, flip=True, seed=0)
    middle = out[:, 0, 4, 3:6]
    mirrored = middle[:, 0] > middle[:, 2]
    assert 150 < int(mirrored.sum()) < 250
    counts = middle[:, 1][~mirrored].long().bincount().tolist()
    assert counts[:2] == [0, 0]
    assert min(counts[2:]) > 15
    assert len(counts) == 7


def test_the_seed_alone_decides() -> None:
    x = torch.rand(8, 3, 6, 6)
    state = torch.random.get_rng_state()
    first, again, other = (augment((x,), crop=2, flip=True, seed=seed)[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_asked_is_nothing_done() -> None:
    x = torch.rand(8, 3, 6, 6, dtype=torch.float64)
    (out,) = augment((x,), crop=0, flip=False, seed=0)
    assert torch.equal(out, x)
    assert out.dtype == torch.float64
    assert out.data_ptr() != x.data_ptr()


def test_what_does_not_fit_is_refused() -> None:
    x = torch.rand(2, 3, 6, 6)
    for crop in (-1, 6):
        with pytest.raises(BadImagesError, match="expected 0 to 5 for images 6x6"):
            augment((x,), crop=crop, flip=True, seed=0)
    for others in ((), (x, x[:1]), (x, x[..., :5]), (x[0],)):
        with pytest.raises(BadImagesError, match="expected one batch"):
            augment(others, crop=1, flip=True, seed=0)


def test_varied_images_depend_on_seed_and_image_alone() -> None:
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    first = varied(x, 1)
    assert first.shape == x.shape
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(varied(x[1:2], 1), first[1:2])
    assert not torch.equal(varied(x, 2), first)
    moved = {int((image.sum((0, 2)) == 0).sum()) for image in varied(torch.rand(30, 3, 16, 16), 0)}
    assert moved <= {0, 1, 2}
    assert len(moved) > 1, "a shift by up to an eighth of the side leaves rows of zeros"
