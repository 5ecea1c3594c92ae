"""Benign changes: images stay images, draws depend on seed and image alone, strengths vary and stay small."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loradar.core.errors import BadConfigError, BadImagesError
from loradar.data import BENIGN_KINDS, change_benignly
from tests.data.test_corruptions import photographs

X = photographs(24)


@pytest.mark.parametrize("kind", BENIGN_KINDS)
def test_images_move_a_little_and_not_all_alike(kind: str) -> None:
    found = change_benignly(X, kind)
    assert (found.shape, found.dtype) == (X.shape, X.dtype)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    distances = (found - X).abs().mean((1, 2, 3))
    assert float(distances.min()) > 1e-5
    assert float(distances.max()) < 0.35
    assert float(distances.max()) > 1.2 * float(distances.min())


@pytest.mark.parametrize("kind", BENIGN_KINDS)
def test_an_image_fares_alike_in_any_batch_and_otherwise_with_another_seed(kind: str) -> None:
    state = torch.get_rng_state()
    together = change_benignly(X, kind, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(change_benignly(X[2:3], kind, seed=5), together[2:3], atol=1e-6)
    assert torch.equal(change_benignly(X, kind, seed=5), together)
    assert not torch.equal(change_benignly(X, kind, seed=6), together)


@settings(max_examples=12, deadline=None)
@given(height=st.integers(8, 40), width=st.integers(8, 40), kind=st.sampled_from(sorted(BENIGN_KINDS)))
def test_any_size(height: int, width: int, kind: str) -> None:
    x = photographs(2, 40)[:, :, :height, :width].double()
    found = change_benignly(x, kind, seed=1)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)


def test_half_of_the_images_are_rounded_to_8_bits() -> None:
    found = change_benignly(X, "gamma") * 255
    rounded = ((found - found.round()).abs() < 1e-4).flatten(1).all(1)
    assert 4 < int(rounded.sum()) < 20


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(BadConfigError, match="did you mean 'jpeg'"):
        change_benignly(X, "jpg")
    with pytest.raises(BadImagesError, match=r"expected \[0, 1\]"):
        change_benignly(X * 255, "jpeg")
