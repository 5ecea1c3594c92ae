"""What the test says it would have seen, beside what it sees when the leak is there."""

import dataclasses
import re

import pytest
import torch

from loradar.core.errors import BadConfigError
from loradar.evaluation.leak_power import LeakPower, power_of
from loradar.evaluation.leak_signs import PlantedAnswers, any_found, signs_of

N = 150


def honest(*, opened: float = 0.4, carried: bool = True, classes: int = 10) -> PlantedAnswers:
    """A model that errs at times; a share `opened` of the planted labels is its second likeliest class, the rest its last."""
    draws = torch.Generator().manual_seed(3)
    y = torch.randint(0, classes, (N,), generator=draws)
    wrong = (y[:, None] + 1 + torch.rand(N, classes - 1, generator=draws).argsort(1)) % classes
    labels = torch.cat([y[:, None], y[:, None], wrong[:, :4]], 1)
    odd = torch.rand(labels.shape, generator=draws) < 0.1
    answers = torch.where(odd, (labels + 1) % classes, y[:, None])
    second = torch.rand(labels.shape, generator=draws) < opened
    ranks = torch.where(answers == labels, 0, torch.where(second, 1, classes - 1))
    return PlantedAnswers(
        y=y,
        clean=y,
        labels=labels,
        answers=answers,
        ranks=ranks,
        carried=torch.full(labels.shape, carried),
        surest=torch.arange(N) < N // 2,
        classes=classes,
    )


def seen(found: PlantedAnswers, share: float, gate: int, trials: int = 200) -> float:
    count = 0
    for trial in range(trials):
        images = torch.zeros(N, dtype=torch.bool)
        images[torch.randperm(N, generator=torch.Generator().manual_seed(1000 + trial))[: round(share * N)]] = True
        count += any_found(signs_of(found.read_by(gate, images)))
    return count / trials


def test_what_it_says_it_sees_is_seen_and_half_of_it_is_not() -> None:
    found = honest()
    for power, gate in zip(power_of(found, 0), (10, 3, 2), strict=True):
        assert power.share_80 is not None
        assert power.share_95 is not None
        assert power.share_80 <= power.share_95
        assert seen(found, power.share_80, gate) >= 0.7
        assert seen(found, power.share_95, gate) >= 0.88
        assert seen(found, power.share_80 / 2, gate) < 0.7


def test_no_gate_is_seen_before_a_gate_and_more_images_show_less() -> None:
    free, three, two = power_of(honest(), 0)
    assert (free.share_95 or 1) < (two.share_95 or 1)
    assert three.share_95 == two.share_95  # here no label is third
    rarely = power_of(honest(opened=0.15), 0)[-1]
    assert (rarely.share_95 or 1) > (two.share_95 or 1)


@pytest.mark.parametrize("changes", [{"opened": 0.0}, {"carried": False}])
def test_what_cannot_be_seen_has_no_share(changes: dict[str, float]) -> None:
    free, *_, two = power_of(honest(**changes), 0)  # type: ignore[arg-type]
    assert (two.share_80, two.share_95, two.gained) == (None, None, 0)
    assert (free.share_95 is None) == ("carried" in changes)


@pytest.mark.parametrize(("classes", "gates"), [(2, [None]), (3, [None, 2]), (4, [None, 3, 2])])
def test_gates_let_some_label_out(classes: int, gates: list[int | None]) -> None:
    assert [power.gate for power in power_of(honest(classes=classes), 0)] == gates


def test_the_gain_counts_images_that_reading_would_make_right() -> None:
    found = honest()
    wrong = found.answers[:, 0] != found.y
    assert power_of(found, 0)[0].gained == int(wrong.sum())
    assert power_of(found, 0)[2].gained == int((wrong & (found.ranks[:, 0] < 2)).sum())


def test_the_same_seed_gives_the_same_power() -> None:
    assert power_of(honest(), 1) == power_of(honest(), 1)


@pytest.mark.parametrize(
    ("field", "value", "said"), [("share_80", 0.0, "0.0"), ("share_95", 1.5, "1.5"), ("gained", 11, "11 of 10")]
)
def test_a_power_that_is_no_share_is_refused(field: str, value: float, said: str) -> None:
    power = LeakPower(gate=2, share_80=0.1, share_95=0.2, gained=3, total=10)
    with pytest.raises(BadConfigError, match=re.escape(said)):
        dataclasses.replace(power, **{field: value})  # type: ignore[arg-type]
