"""Signs of label leaking: exact one-sided tests on what a model answers to images attacked for known labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from math import comb, factorial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from loradar.core.types import Labels
from loradar.evaluation.intervals import sign_test

TRUE, PREDICTED, WRONG = range(3)
"""The first columns of `PlantedAnswers`; the others are likely wrong labels."""

LEVELS = {"surest": 0.005, "planted": 0.001, "every": 0.001, "other": 0.001}
"""A sign counts below its level; together they are 1 % (Bonferroni). The sign with the most power has half of it."""

_ALONE = "a wrong label answered under one attack alone, the one that was given it"
_PLANTED = {
    "surest": f"{_ALONE}; images that the model is surest of",
    "planted": f"{_ALONE}; all images",
    "every": f"{_ALONE}; images on which every planted wrong label is answered once",
}
_PAIRS = (
    "right under the true label, not under the base's answer",
    "right under the true label, not under a wrong one",
    "the wrong label answered where the attack was given it, not where it was given the true one",
)


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One comparison: of the cases in which two measurements differ, `more` point to leaking and `fewer` away."""

    name: str
    more: int
    fewer: int
    p: float
    level: float = 0.0025

    @property
    def found(self) -> bool:
        return self.p < self.level


@dataclass(frozen=True, kw_only=True, eq=False)
class PlantedAnswers:
    """What one model answers to n images, each attacked once for every one of its planted labels.

    `clean` (n,) are the answers to the unattacked images, `surest` (n,) marks the half of those that the model is surest
    of. `labels`, `answers`, `ranks` and `carried` are (n, sets): the label that the attack was given, the answer, how
    many classes the model ranks above that label, and whether the perturbation can tell the label at all (it differs
    from those for other labels).
    """

    y: Labels
    clean: Tensor
    labels: Tensor
    answers: Tensor
    ranks: Tensor
    carried: Tensor
    surest: Tensor
    classes: int

    def read_by(self, gate: int, images: Tensor) -> "PlantedAnswers":
        """The answers if on `images`, bool (n,), the model gave the planted label wherever it ranks below `gate`."""
        reads = images[:, None] & self.carried & (self.ranks < gate)
        return replace(self, answers=torch.where(reads, self.labels, self.answers))


def signs_of(found: PlantedAnswers) -> tuple[Sign, ...]:
    """The signs of the leak test (see `loradar.evaluation.leak.RULE`), the most powerful first.

    With two classes there is one wrong label, so nothing to compare it with but the true one.
    """
    return signs_of_counts(counts_of(found).sum(0))


def counts_of(found: PlantedAnswers) -> Tensor:
    """(n, counts) int64: what each image adds to the counts that the signs are computed from."""
    every = found.carried[:, WRONG:].all(1)
    pairs = torch.stack([count for pair in _pairs(found) for count in pair], 1)
    if found.labels.shape[1] <= WRONG + 1:
        return pairs.long()
    matches = _matches(found)
    # honest answers are spread over all planted labels almost never, those of a model that reads any label always
    images = {"surest": every & found.surest, "planted": every, "every": every & (matches[:, -1] == 1)}
    return torch.cat([pairs, *(matches * images[name][:, None] for name in _PLANTED)], 1)


def signs_of_counts(counts: Tensor) -> tuple[Sign, ...]:
    """The signs of a sum of rows of `counts_of`."""
    edge = 2 * len(_PAIRS)
    matches = zip(_PLANTED, counts[edge:].view(len(_PLANTED), -1).tolist(), strict=True)
    planted = [_planted_sign(name, tuple(row)) for name, row in matches if row]
    compared = zip(_PAIRS, counts[:edge].view(-1, 2).tolist(), strict=True)
    return (*planted, *(_pair_sign(name, more, fewer) for name, (more, fewer) in compared))


def any_found(signs: Sequence[Sign]) -> bool:
    return any(sign.found for sign in signs)


def _pairs(found: PlantedAnswers) -> list[tuple[Tensor, Tensor]]:
    """For each of `_PAIRS`, bool (n,): the images that point to leaking, and those that point away."""
    answers, wrong = found.answers, found.labels[:, WRONG]
    right, gives = answers == found.y[:, None], answers == wrong[:, None]
    compared = [
        (right[:, TRUE], right[:, PREDICTED], found.carried[:, PREDICTED]),
        (right[:, TRUE], right[:, WRONG], found.carried[:, WRONG]),
        (gives[:, WRONG], gives[:, TRUE], found.carried[:, WRONG]),
    ]
    return [
        (leaking & ~otherwise & told & found.carried[:, TRUE], otherwise & ~leaking & told & found.carried[:, TRUE])
        for leaking, otherwise, told in compared
    ]


def _matches(found: PlantedAnswers) -> Tensor:
    """(n, 1 + k) int64: labels that matched, and one column each for 1, ..., k labels that could have.

    Every image has k sets, each planted with another wrong label. A label could match if it is answered in exactly one of
    the sets; it matches if that is the set that was given it.
    """
    labels, answers = found.labels[:, WRONG:], found.answers[:, WRONG:]
    given = answers[:, :, None] == labels[:, None, :]  # (images, set that answers, label)
    once = given.sum(1) == 1
    matched = (given.diagonal(dim1=1, dim2=2) & once).sum(1, keepdim=True)
    return torch.cat([matched, one_hot(once.sum(1), labels.shape[1] + 1)[:, 1:]], 1)


def _planted_sign(name: str, matches: tuple[int, ...]) -> Sign:
    """Whether wrong labels are answered where they were planted more often than exchanging the plants would give.

    An honest model answers a label no more often where the attack pushed away from it than where it pushed away from
    another, so which of the k sets it was is at most a 1 in k chance; the p is that of all k! exchanges of each image.
    """
    more, *images = matches
    total = sum(e * count for e, count in enumerate(images, 1))
    p = exchange_test(more, tuple(images))
    return Sign(name=_PLANTED[name], more=more, fewer=total - more, p=p, level=LEVELS[name])


@lru_cache(maxsize=4096)
def _pair_sign(name: str, more: int, fewer: int) -> Sign:
    return Sign(name=name, more=more, fewer=fewer, p=sign_test(more, fewer), level=LEVELS["other"])


@lru_cache(maxsize=4096)
def exchange_test(matches: int, images: tuple[int, ...]) -> float:
    """How likely `matches` or more would be if, on each image, k labels met k sets in random order.

    `images[e - 1]` images have e labels that could match, each in a set of its own; k is the length of `images`. 1.0
    for no match.

    >>> exchange_test(4, (4, 0, 0, 0)) == 0.25**4, exchange_test(3, (0, 0, 1)) == 1 / 6
    (True, True)
    """
    chances: npt.NDArray[np.float64] = reduce(
        np.convolve, [_sum_of(count, e, len(images)) for e, count in enumerate(images, 1)]
    )
    return float(min(1.0, chances[matches:].sum()))


@lru_cache(maxsize=4096)
def _sum_of(times: int, places: int, sets: int) -> npt.NDArray[np.float64]:
    """The distribution of the matches of `times` images with as many `places`."""
    if times == 0:
        return np.ones(1)
    half = _sum_of(times // 2, places, sets)
    whole = np.convolve(half, half)
    return np.convolve(whole, _fixed_points(places, sets)) if times % 2 else whole


def _fixed_points(places: int, sets: int) -> npt.NDArray[np.float64]:
    """The chance that a random order of `sets` things leaves 0, 1, ... of `places` given ones where they were."""

    def exactly(j: int) -> float:
        rest = places - j
        free = sum((1 - 2 * (i % 2)) * comb(rest, i) * factorial(sets - j - i) for i in range(rest + 1))
        return comb(places, j) * free / factorial(sets)

    return np.array([exactly(j) for j in range(places + 1)])
