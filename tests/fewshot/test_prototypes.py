"""Nearest centroid by angle."""

import pytest
import torch

from loradar.core.errors import BadDataError
from loradar.fewshot.heads import cosine_logits, prototypes_of


def test_prototypes_are_means_of_raw_features() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 4.0], [4.0, 0.0]])
    assert prototypes_of(features, torch.tensor([0, 1, 0]), 2).tolist() == [[3.0, 0.0], [0.0, 4.0]]
    with pytest.raises(BadDataError, match="class 1 of the task has no support"):
        prototypes_of(features, torch.tensor([0, 2, 0]), 3)


def test_logits_are_scaled_cosines() -> None:
    logits = cosine_logits(torch.tensor([[0.0, 3.0]]), torch.tensor([[5.0, 0.0], [0.0, 0.1], [-1.0, -1.0]]))
    assert logits[0].tolist() == pytest.approx([0.0, 10.0, -10 / 2**0.5])
    assert cosine_logits(torch.ones(1, 2), torch.ones(1, 2), scale=2.0, bias=0.5).item() == pytest.approx(3.0)
