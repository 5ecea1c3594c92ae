import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from loradar.core.losses import cross_entropy, margin
from tests.core.strategies import directions, patient, seeds


@patient
@given(seed=seeds, classes=st.integers(2, 6), count=st.integers(1, 4))
def test_margin_is_positive_just_where_the_answer_is_wrong(seed: int, classes: int, count: int) -> None:
    logits = directions(seed, (count, classes))
    y = torch.arange(count) % classes
    expected = torch.stack(
        [max(row[k] for k in range(classes) if k != label) - row[label] for row, label in zip(logits, y, strict=True)]
    )
    assert torch.equal(margin(logits, y), expected)
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


@patient
@given(seed=seeds, shift=st.floats(-50, 50))
def test_losses_do_not_see_a_shift_of_all_logits(seed: int, shift: float) -> None:
    logits, y = directions(seed, (3, 4)), torch.tensor([0, 3, 1])
    for loss in (cross_entropy, margin):
        torch.testing.assert_close(loss(logits + shift, y), loss(logits, y))


def test_cross_entropy_is_in_nats_and_one_value_per_image() -> None:
    loss = cross_entropy(torch.zeros(3, 5, dtype=torch.float64), torch.tensor([0, 1, 4]))
    torch.testing.assert_close(loss, torch.full((3,), math.log(5), dtype=torch.float64))


def test_margin_gradient_reaches_the_two_logits_alone() -> None:
    logits = torch.tensor([[2.0, 1.0, 3.0, 0.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(margin(logits, torch.tensor([0])).sum(), logits)
    assert grad.tolist() == [[-1.0, 0.0, 1.0, 0.0]]
