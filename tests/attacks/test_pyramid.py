"""The pyramid's own promises; what every attack promises is in the contract table."""

import pytest
import torch

from loradar.attacks import PGD, Pyramid
from loradar.attacks.objectives import gradient, objective_of
from loradar.core.errors import BadConfigError
from tests.attacks.toys import Net, pictures


@pytest.mark.parametrize("loss", ["cross_entropy", "kl"])
def test_its_bound_is_31_times_its_radius_and_is_used(loss: str) -> None:
    x = 0.5 + 0 * pictures(4).float()
    attack = Pyramid(eps=0.01, steps=8, step_size=0.01, loss=loss)  # type: ignore[arg-type]
    moved = (attack(Net(), x, torch.arange(4)) - x).abs()
    assert float(moved.max()) <= 0.31 + 1e-6
    assert float(moved.max()) > 0.2, "all three levels push one way somewhere"


def test_without_a_radius_nothing_moves() -> None:
    x, y = pictures(4).float(), torch.arange(4)
    assert torch.equal(Pyramid(eps=0.0)(Net(), x, y), x)
    assert torch.equal(PGD(eps=0.0, loss="kl")(Net(), x, y), x)


def test_the_divergence_has_no_gradient_at_the_clean_image() -> None:
    x, model = pictures(4).double(), Net().double().eval()
    objective = objective_of(model, x, torch.arange(4), "kl")
    assert float(gradient(objective, x).abs().max()) < 1e-15
    assert float(gradient(objective, (x + 0.05).clamp(0, 1)).abs().max()) > 1e-9


def test_the_divergence_from_a_zero_start_is_refused() -> None:
    for make in (Pyramid, PGD):
        with pytest.raises(BadConfigError, match="a zero start would never leave it"):
            make(loss="kl", random_start=False)
    Pyramid(loss="cross_entropy", random_start=False)
    with pytest.raises(BadConfigError, match="eps is -1"):
        Pyramid(eps=-1)


def test_the_divergence_grows() -> None:
    x, y, model = pictures(8).float(), torch.arange(8) % 4, Net().eval()
    objective = objective_of(model, x, y, "kl")
    start = PGD(eps=0.05, loss="kl", step_size=1e-7, steps=1)(model, x, y)
    found = PGD(eps=0.05, loss="kl", steps=10)(model, x, y)
    assert bool((objective(found) >= objective(start)).all())


def test_images_smaller_than_a_grid() -> None:
    x = torch.rand(2, 3, 3, 5, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(45, 3))
    assert Pyramid(eps=0.01)(model, x, torch.tensor([0, 1])).shape == x.shape
