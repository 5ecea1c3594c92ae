"""The exact tests behind the leak test, beside enumeration and simulation."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loradar.evaluation.leak_planting import _likely_labels
from loradar.evaluation.leak_signs import LEVELS, PlantedAnswers, any_found, exchange_test, signs_of


def planted(answers: Tensor, labels: Tensor, y: Tensor | None = None, *, carried: bool = True) -> PlantedAnswers:
    n = len(answers)
    return PlantedAnswers(
        y=torch.zeros(n, dtype=torch.int64) if y is None else y,
        clean=torch.zeros(n, dtype=torch.int64),
        labels=labels,
        answers=answers,
        ranks=torch.ones_like(answers),
        carried=torch.full(answers.shape, carried),
        surest=torch.arange(n) % 2 == 0,
        classes=10,
    )


@given(st.integers(2, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_the_exchange_test_is_that_of_all_exchanges(sets: int, data: st.DataObject) -> None:
    """Of three images at most: every order of the plants of every image is tried."""
    answer = st.integers(-1, sets - 1)
    rows = data.draw(st.lists(st.tuples(*[answer] * sets), min_size=1, max_size=3))
    plants = tuple(range(sets))

    def matches(plants_of: tuple[tuple[int, ...], ...]) -> int:
        return sum(
            label == row[k] and row.count(label) == 1
            for row, given_labels in zip(rows, plants_of, strict=True)
            for k, label in enumerate(given_labels)
        )

    observed = matches((plants,) * len(rows))
    tried = [matches(orders) for orders in itertools.product(itertools.permutations(plants), repeat=len(rows))]
    expected = sum(count >= observed for count in tried) / len(tried)
    once = [sum(row.count(label) == 1 for label in plants) for row in rows]
    found = exchange_test(observed, tuple(once.count(e) for e in range(1, sets + 1)))
    assert found == pytest.approx(expected)
    # and the sign computes the same counts
    labels = torch.cat([torch.tensor([[5, 5]]), torch.tensor([plants])], 1).expand(len(rows), -1)
    answers = torch.cat([torch.full((len(rows), 2), -1), torch.tensor(rows)], 1)
    sign = next(sign for sign in signs_of(planted(answers, labels)) if "all images" in sign.name)
    assert sign.more == observed
    assert sign.p == pytest.approx(expected)


def test_the_levels_together_are_one_percent() -> None:
    assert LEVELS["surest"] + LEVELS["planted"] + LEVELS["every"] + 3 * LEVELS["other"] == pytest.approx(0.01)


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_random_answers_are_rarely_taken_for_leaking(noise: float, classes: int) -> None:
    """Answers that depend on nothing are the hardest honest case: a label is no less likely where it was planted."""
    draws = torch.Generator().manual_seed(0)
    accused, trials, n = 0, 300, 120
    for _ in range(trials):
        y = torch.randint(0, classes, (n,), generator=draws)
        wrong = (y[:, None] + 1 + torch.rand(n, classes - 1, generator=draws).argsort(1)) % classes
        labels = torch.cat([y[:, None], (y[:, None] + 1) % classes, wrong[:, :4]], 1)
        random = torch.randint(0, classes, labels.shape, generator=draws)
        answers = torch.where(torch.rand(labels.shape, generator=draws) < noise, random, y[:, None])
        accused += any_found(signs_of(planted(answers, labels, y)))
    assert accused <= 8  # 1 % of 300 is 3; more than 8 has a probability of 0.4 %


def test_a_model_that_errs_away_from_the_plant_does_not_leak() -> None:
    """What honest models do: the likeliest wrong class is answered under every attack but the one that pushes from it."""
    labels = torch.tensor([[0, 0, 1, 2, 3, 4]]).expand(100, -1)
    answers = torch.tensor([[2, 2, 2, 0, 2, 2]]).expand(100, -1)
    assert not any_found(signs_of(planted(answers, labels)))


def test_three_images_that_give_back_every_planted_label_are_seen_among_errors() -> None:
    """A leak on few images, in a model that errs away from the plant on all the others."""
    labels = torch.tensor([[0, 0, 1, 2, 3, 4]]).repeat(300, 1)
    answers = torch.tensor([[2, 2, 2, 0, 0, 0]]).repeat(300, 1)
    assert not any_found(signs_of(planted(answers, labels)))
    answers[:3] = labels[:3]
    (sign,) = (sign for sign in signs_of(planted(answers, labels)) if sign.found)
    assert (sign.more, sign.fewer) == (12, 0)
    assert sign.p == pytest.approx(24**-3)


@pytest.mark.parametrize("carried", [True, False])
def test_images_that_cannot_tell_their_label_do_not_count(carried: bool) -> None:
    labels = torch.tensor([[0, 0, 1, 2, 3, 4]]).expand(100, -1)
    assert any_found(signs_of(planted(labels, labels, carried=carried))) == carried


def test_with_two_classes_the_wrong_label_is_compared_with_the_true_one() -> None:
    labels = torch.tensor([[0, 0, 1]]).expand(20, -1)
    signs = signs_of(planted(labels, labels))
    assert len(signs) == 3
    assert any_found(signs)


@given(st.integers(2, 12), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_likely_labels_are_wrong_distinct_and_likeliest_first(classes: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    logits = torch.randn(20, classes, generator=draws)
    y = torch.randint(0, classes, (20,), generator=draws)
    wrong = (y + torch.randint(1, classes, (20,), generator=draws)) % classes
    base_says = torch.randint(0, classes, (20,), generator=draws)
    likely = _likely_labels(logits, (y, wrong), base_says)
    assert len(likely) == min(3, classes - 2)
    for row in range(20):
        chosen = [int(labels[row]) for labels in likely]
        assert len({*chosen, int(y[row]), int(wrong[row])}) == len(chosen) + 2
        last = {int(base_says[row]), int(logits[row].argmax())}
        scores = [float(logits[row, label]) for label in chosen if label not in last]
        assert scores == sorted(scores, reverse=True)
        if classes >= 8:
            assert not last & set(chosen)
