"""Fifteen corruptions at five severities: deterministic, per image, stronger and stronger."""

import pytest
import torch

from loradar.core.errors import BadConfigError, BadImagesError
from loradar.data import CORRUPTIONS, SEVERITIES, corrupt
from loradar.data.corruptions import Corruption


def photographs(count: int = 4, side: int = 32) -> torch.Tensor:
    """Smooth pictures with edges: noise on coarse grids."""
    draws = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=draws)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


X = photographs()
# severities of CIFAR-10-C trade one setting against another here, so the distance from the clean image does not grow
UNEVEN = {"glass_blur", "frost", "elastic_transform"}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_images_stay_images_and_move(kind: Corruption) -> None:
    distances = []
    for severity in range(1, SEVERITIES + 1):
        found = corrupt(X, kind, severity)
        assert found.shape == X.shape
        assert found.dtype == X.dtype
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        distances.append(float((found - X).abs().mean()))
    assert min(distances) > 1e-3
    assert max(distances) < 0.4
    if kind not in UNEVEN:
        assert distances[-1] > 1.2 * distances[0]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_an_image_fares_alike_in_any_batch(kind: Corruption) -> None:
    state = torch.get_rng_state()
    together = corrupt(X, kind, 3, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.allclose(corrupt(X[2:3], kind, 3, seed=5), together[2:3], atol=1e-6)
    assert torch.equal(corrupt(X, kind, 3, seed=5), together)


def test_other_sizes() -> None:
    wide = photographs(2, 64)[:, :, :48]
    for kind in CORRUPTIONS:
        assert corrupt(wide, kind, 5).shape == wide.shape


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(BadConfigError, match="did you mean 'fog'"):
        corrupt(X, "fogg", 1)  # type: ignore[arg-type]
    with pytest.raises(BadConfigError, match="expected 1 to 5"):
        corrupt(X, "fog", 6)
    with pytest.raises(BadImagesError, match=r"expected \[0, 1\]"):
        corrupt(X * 255, "fog", 1)
