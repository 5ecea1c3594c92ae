import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.attacks import PGD, Smooth
from loradar.core.errors import BadConfigError
from tests.attacks.toys import Net, answers, pictures


class Brightness(nn.Module):
    """Two classes, by the mean of the image: the best change is the same everywhere, so as smooth as can be."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return 20 * torch.stack([mean - 0.5, 0.5 - mean], 1)


def test_finds_the_best_change_where_that_is_smooth() -> None:
    x = pictures(6, low=0.4, high=0.8)
    y = answers(Brightness(), x)
    assert (y == 0).all()
    torch.testing.assert_close(Smooth(eps=0.05, cells=2)(Brightness(), x, y), x - 0.05)
    l2 = Smooth(eps=0.5, norm="l2", cells=2)(Brightness(), x, y) - x
    torch.testing.assert_close(l2.flatten(1).norm(dim=1), torch.full((6,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(l2, torch.full_like(l2, -0.5 / 192**0.5), rtol=0, atol=2e-3)


def test_the_change_is_an_upsampled_grid() -> None:
    """Far from 0 and 1, the change is determined by its cells: it lies in the span of their bilinear patterns."""
    x = pictures(3, low=0.4, high=0.6)
    model = Net().double()
    change = Smooth(eps=0.05, cells=3)(model, x, answers(model, x)) - x
    basis = F.interpolate(torch.eye(9, dtype=torch.float64).view(9, 1, 3, 3), size=(8, 8), mode="bilinear").view(9, 64)
    planes = change.view(9, 64)
    fitted = torch.linalg.lstsq(basis.T, planes.T).solution
    torch.testing.assert_close((basis.T @ fitted).T, planes, rtol=0, atol=1e-9)
    noise = (PGD(eps=0.05)(model, x, answers(model, x)) - x).view(9, 64)
    assert float((basis.T @ torch.linalg.lstsq(basis.T, noise.T).solution - noise.T).abs().max()) > 0.01


def test_restarts_are_never_weaker() -> None:
    model, x = Net().double(), pictures(8)
    y = answers(model, x)
    losses = [
        F.cross_entropy(model(Smooth(cells=4, steps=2, restarts=k, eps=0.01)(model, x, y)), y, reduction="none")
        for k in (1, 4)
    ]
    assert (losses[1] >= losses[0]).all()
    assert (losses[1] > losses[0]).any()


def test_a_grid_finer_than_the_image_is_refused() -> None:
    with pytest.raises(BadConfigError, match="a grid of 9 x 9 cells is finer than an image of 8 x 8"):
        Smooth(cells=9)(Net(), pictures(1).float(), torch.tensor([0]))
