"""Scores of members on an attacked support."""

import torch
from torch import Tensor, nn

from loradar.fewshot.blending import Blending, attacked_score
from loradar.fewshot.heads import prototypes_of


class Brittle(nn.Module):
    """The mean of an image, and beside it a detail that tells the classes apart but is lost in an attack."""

    def __init__(self, detail: float) -> None:
        super().__init__()
        self.detail = detail

    def forward(self, x: Tensor) -> Tensor:
        left, right = x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))
        fine = (x[..., ::2] - x[..., 1::2]).mean((1, 2, 3))
        return torch.stack([left, right, self.detail * fine, torch.ones_like(left)], 1)


def test_a_member_that_stands_the_attack_scores_above_one_that_falls() -> None:
    labels = torch.arange(2).repeat(4)
    draws = torch.Generator().manual_seed(0)
    x = 0.5 + 0.02 * torch.randn(8, 3, 8, 8, generator=draws)
    x[labels == 0, :, :, :4] += 0.2
    x[labels == 1, :, :, 4:] += 0.2
    x[labels == 0, :, :, ::2] += 0.01
    x[labels == 1, :, :, 1::2] += 0.01
    sturdy, brittle = Brittle(0.0), Brittle(60.0)
    copies, repeated = torch.cat([x, x]), labels.repeat(2)
    scores = [attacked_score(Blending(score="attacked"), one, x, copies, labels, 2) for one in (sturdy, brittle)]
    assert scores[0] > scores[1] + 0.1
    # on the clean copies it is the other way round
    clean = [
        Blending(score="loss").score_of(m(copies), repeated, prototypes_of(m(x), labels, 2)) for m in (sturdy, brittle)
    ]
    assert clean[1] > clean[0]
