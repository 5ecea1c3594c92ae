"""Normalisation as a layer."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.modules import unwrap
from loradar.models import Autocast, Normalized, wrap

numbers = st.floats(0.1, 0.9)


@given(st.lists(numbers, min_size=1, max_size=4), st.data())
def test_forward_is_the_wrapped_module_of_the_standardised_images(mean: list[float], data: st.DataObject) -> None:
    std = data.draw(st.lists(numbers, min_size=len(mean), max_size=len(mean)))
    x = torch.rand(2, len(mean), 3, 5)
    given_out = Normalized(nn.Identity(), mean, std)(x)
    for channel, (m, s) in enumerate(zip(mean, std, strict=True)):
        torch.testing.assert_close(given_out[:, channel], (x[:, channel] - m) / s)


def test_it_moves_and_saves_its_numbers_and_keeps_the_mode(linear: nn.Module) -> None:
    model = wrap(linear.eval(), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert unwrap(model) is linear
    assert not linear.training
    assert model.state_dict()["mean"].shape == (1, 3, 1, 1)
    assert {name for name, _ in model.named_parameters()} == {"wrapped.1.weight", "wrapped.1.bias"}


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((), ()),
        ((0.5, 0.5), (0.5,)),
        ((0.5,), (0.0,)),
        ((0.5,), (-1.0,)),
        ((float("nan"),), (1.0,)),
        ((0.0,), (float("inf"),)),
    ],
)
def test_bad_numbers_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(BadConfigError):
        Normalized(nn.Identity(), mean, std)


class Kind(nn.Module):
    """Three logits in the container that its name says."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc, self.kind = nn.Linear(3, 3), kind

    def forward(self, x: Tensor) -> object:
        logits = self.fc(x.mean((2, 3)))
        return {"dict": {"logits": logits}, "tuple": (logits, logits), "list": [logits]}[self.kind]


def test_logits_are_taken_out_of_a_dictionary_and_other_containers_refused() -> None:
    x = torch.rand(2, 3, 4, 4)
    kind = Kind("dict")
    model = Normalized(kind, [0.0] * 3, [1.0] * 3)
    expected = kind.fc(x.mean((2, 3)))
    assert torch.equal(model(x), expected)
    torch.testing.assert_close(Autocast(kind, torch.bfloat16)(x), expected, atol=0.05, rtol=0.05)
    for other in ("tuple", "list"):
        for wrapped in (Normalized(Kind(other), [0.0] * 3, [1.0] * 3), Autocast(Kind(other), torch.bfloat16)):
            with pytest.raises(BadConfigError, match=f"the model gives a {other} of .; expected logits"):
                wrapped(x)
