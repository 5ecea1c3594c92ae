from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from loradar.attacks import BaseAttack
from loradar.core.types import Attack
from loradar.evaluation import Check, check_masking, check_transfer
from tests.evaluation.toys import FirstPixel, Keep, Paint, coded_images, row

LABELS = torch.arange(60) % 10


@dataclass(frozen=True, kw_only=True)
class Fool(BaseAttack):
    """Makes the first `share` of a batch wrong."""

    spec_name: ClassVar[str] = "fool"

    share: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        fooled = round(self.share * len(x))
        return torch.cat([Paint(shift=1)(model, x, y)[:fooled], x[fooled:]])


def masking(noise: Attack, short: Attack, long: Attack, unbounded: Attack) -> tuple[Check, ...]:
    x = coded_images(LABELS)
    return check_masking(FirstPixel(), x, LABELS, noise=noise, short=short, long=long, unbounded=unbounded, name="m")


@pytest.mark.parametrize(
    ("noise", "short", "long", "unbounded", "passed"),
    [
        (0.1, 0.5, 0.7, 1.0, [True, True, True]),
        (0.1, 0.7, 0.4, 1.0, [False, True, True]),
        (0.9, 0.5, 0.5, 1.0, [True, False, True]),
        (0.1, 0.5, 0.7, 0.9, [True, True, False]),
        # a difference of three images of sixty may be chance
        (0.1, 0.55, 0.5, 1.0, [True, True, True]),
    ],
)
def test_masking_is_found_where_it_is(
    noise: float, short: float, long: float, unbounded: float, passed: list[bool]
) -> None:
    checks = masking(Fool(share=noise), Fool(share=short), Fool(share=long), Fool(share=unbounded))
    assert [check.passed for check in checks] == passed


def test_checks_carry_counts_and_the_model() -> None:
    steps, noise, unbounded = masking(Keep(), Fool(share=0.5), Fool(share=1.0), Fool(share=1.0))
    assert steps.numbers == {"short": 30, "long": 0, "total": 60}
    assert noise.numbers == {"noise": 60, "long": 0, "total": 60}
    assert unbounded.numbers == {"unbounded": 0, "total": 60}
    assert {check.model for check in (steps, noise, unbounded)} == {"m"}
    assert steps.detail == "right of 60: 30 after few steps, 0 after many"


def test_an_attack_on_the_model_itself_must_not_be_the_weaker_one() -> None:
    rows = [
        row("good", "pgd", "transfer", 300),
        row("good", "pgd", "adaptive", 310),
        row("masked", "pgd", "transfer", 100),
        row("masked", "pgd", "adaptive", 400),
        row("masked", "fgsm", "adaptive", 400),
    ]
    good, masked = check_transfer(rows)
    assert (good.model, good.passed) == ("good", True)
    assert (masked.model, masked.passed) == ("masked", False)
    assert masked.numbers == {"adaptive": 400, "transfer": 100, "total": 500}


def test_baselines_that_share_a_name_are_compared_with_themselves() -> None:
    rows = [
        row("fc-only", "roa", "transfer", 400, "roa"),
        row("fc-only", "roa", "transfer", 10, "fia"),
        row("fc-only", "roa", "adaptive", 390, "roa"),
    ]
    assert [(check.model, check.passed) for check in check_transfer(rows)] == [("fc-only (ROA)", True)]
