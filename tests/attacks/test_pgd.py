import pytest
import torch

from loradar.attacks import FGSM, MIFGSM, PGD, UniformNoise
from loradar.core.errors import BadConfigError
from loradar.core.losses import cross_entropy
from tests.attacks.toys import Counting, Net, answers, pictures

SMALL = 0.01


def test_default_step_crosses_the_ball_two_and_a_half_times() -> None:
    model, x = Net().double(), pictures(3)
    y = answers(model, x)
    assert torch.equal(PGD(steps=5)(model, x, y), PGD(steps=5, step_size=2.5 * 8 / 255 / 5)(model, x, y))
    assert not torch.equal(PGD(steps=5)(model, x, y), PGD(steps=5, step_size=0.001)(model, x, y))


def test_one_full_step_without_random_start_is_fgsm() -> None:
    model, x = Net().double(), pictures(3)
    y = answers(model, x)
    for eps, norm in ((SMALL, "linf"), (0.3, "l2")):
        pgd = PGD(eps=eps, norm=norm, steps=1, step_size=eps, random_start=False)  # type: ignore[arg-type]
        torch.testing.assert_close(pgd(model, x, y), FGSM(eps=eps, norm=norm)(model, x, y))  # type: ignore[arg-type]


def test_mi_fgsm_without_momentum_is_plain_ascent() -> None:
    model, x = Net().double(), pictures(3)
    y = answers(model, x)
    plain = PGD(eps=SMALL, steps=4, step_size=0.0025, random_start=False)
    assert torch.equal(MIFGSM(eps=SMALL, steps=4, momentum=0.0)(model, x, y), plain(model, x, y))
    assert not torch.equal(MIFGSM(steps=4)(model, x, y), MIFGSM(steps=4, momentum=0.0)(model, x, y))


def test_each_step_is_one_forward_pass() -> None:
    counting = Counting(Net())
    PGD(steps=7)(counting, pictures(2).float(), torch.tensor([0, 1]))
    assert [len(x) for x in counting.seen] == [2] * 7


def test_restarts_are_never_weaker_and_start_apart() -> None:
    model, x = Net().double(), pictures(6)
    y = answers(model, x)
    losses = [cross_entropy(model(PGD(eps=SMALL, steps=2, restarts=k)(model, x, y)), y) for k in (1, 2, 6)]
    assert (losses[1] >= losses[0]).all()
    assert (losses[2] >= losses[1]).all()
    assert (losses[2] > losses[0]).any()


def test_restarts_without_random_start_are_not_repetitions() -> None:
    counting = Counting(Net().double())
    x = pictures(2)
    PGD(eps=SMALL, steps=1, restarts=2, random_start=False)(counting, x, answers(counting.wrapped, x))
    first, _, second, _ = counting.seen
    assert torch.equal(first, x)
    assert not torch.equal(second, x)


def test_seed_decides_the_random_start() -> None:
    model, x, y = Net().double(), pictures(2), torch.tensor([0, 1])
    assert not torch.equal(PGD(steps=1, seed=0)(model, x, y), PGD(steps=1, seed=1)(model, x, y))
    assert not torch.equal(UniformNoise(seed=0)(model, x, y), UniformNoise(seed=1)(model, x, y))


def test_margin_loss_moves_where_cross_entropy_has_underflowed() -> None:
    model = Net()
    with torch.no_grad():
        model.fc.weight *= 1e7
    x = pictures(4).float()
    y = answers(model, x)
    assert torch.equal(PGD(random_start=False)(model, x, y), x)
    assert not torch.equal(PGD(random_start=False, loss="margin")(model, x, y), x)


def test_the_best_iterate_is_never_weaker_than_the_last() -> None:
    """Large steps overshoot: what fooled the model on the way must not be lost."""
    model, x = Net().double(), pictures(24)
    y = answers(model, x)
    for loss in ("cross_entropy", "margin", "kl"):
        last, best = (
            answers(model, PGD(eps=SMALL, step_size=SMALL, steps=4, loss=loss, keep=keep)(model, x, y)) != y
            for keep in ("last", "best")
        )
        assert bool((best | ~last).all())


def test_keeping_the_best_costs_one_pass_and_moves_no_iterate() -> None:
    counting, twin = Counting(Net().double()), Counting(Net().double())
    x = pictures(3)
    y = answers(counting.wrapped, x)
    PGD(steps=5)(counting, x, y)
    x_adv = PGD(steps=5, keep="best")(twin, x, y)
    assert len(twin.seen) == 6
    assert all(torch.equal(a, b) for a, b in zip(counting.seen, twin.seen, strict=False))
    assert all(any(torch.equal(x_adv[i], seen[i]) for seen in twin.seen) for i in range(3))


def test_noise_is_uniform_in_the_ball() -> None:
    x = torch.full((40, 3, 8, 8), 0.5, dtype=torch.float64) + torch.arange(40).view(-1, 1, 1, 1) / 1000
    moved = UniformNoise(eps=0.1)(Net(), x, torch.zeros(40, dtype=torch.int64)) - x
    assert abs(float(moved.mean())) < 0.005
    assert abs(float(moved.std()) - 0.1 / 3**0.5) < 0.002


@pytest.mark.parametrize("setting", [{"steps": 0}, {"restarts": 0}])
def test_counts_below_one_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(BadConfigError, match="is 0; expected 1 or more"):
        PGD(**setting)  # type: ignore[arg-type]
