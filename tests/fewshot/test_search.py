"""What is learned on validation tasks."""

import torch

from loradar.fewshot.search import Chooser


def test_a_chooser_learns_which_member_goes_with_which_tasks() -> None:
    draws = torch.Generator().manual_seed(0)
    best = ["small", "large"] * 20
    centres = {"small": 0.0, "large": 3.0}
    seen, unseen = (torch.stack([centres[name] + torch.randn(6, generator=draws) for name in best]) for _ in range(2))
    choose = Chooser.learned(seen, best)
    right = sum(choose.classify(summary) == name for summary, name in zip(unseen, best, strict=True))
    assert right >= 38


def test_where_one_member_is_always_best_there_is_no_choice() -> None:
    choose = Chooser.learned(torch.rand(3, 4), ["only"] * 3)
    assert choose.classify(torch.rand(4)) == "only"
