"""The power of the leak test: which share of leaking it would have seen in this model, on these images."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.core.randomness import generator
from loradar.evaluation.leak_signs import TRUE, PlantedAnswers, any_found, counts_of, signs_of_counts

GATES = (3, 2)
TRIALS = 100


@dataclass(frozen=True, kw_only=True)
class LeakPower:
    """The smallest leak that the test sees: a reader that gives the planted label on a share of the images.

    With a `gate` of k it does so only where the label is among the model's own k likeliest classes; None is no gate.
    `share_80` and `share_95` are the shares of the images, in (0, 1], that are seen with that probability; None where
    reading on all images is not. Reading on all would make `gained` of `total` images right under the true label.
    """

    gate: int | None
    share_80: float | None
    share_95: float | None
    gained: int
    total: int

    def __post_init__(self) -> None:
        shares = [share for share in (self.share_80, self.share_95) if share is not None]
        if not all(0 < share <= 1 for share in shares) or not 0 <= self.gained <= self.total:
            raise BadConfigError(f"a leak's power has shares {shares}, {self.gained} of {self.total}; expected shares")

    @property
    def reader(self) -> str:
        return "any label" if self.gate is None else f"labels among the model's {self.gate} likeliest classes"


def power_of(found: PlantedAnswers, seed: int) -> tuple[LeakPower, ...]:
    """Makes the model read on random images, more and more of them, until a sign is found; `TRIALS` times for each gate."""
    gates = [None, *(gate for gate in GATES if gate < found.classes)]
    return tuple(_power(found, gate, seed) for gate in gates)


def _power(found: PlantedAnswers, gate: int | None, seed: int) -> LeakPower:
    total, below = len(found.y), found.classes if gate is None else gate
    honest = counts_of(found)
    added = counts_of(found.read_by(below, torch.ones(total, dtype=torch.bool))) - honest
    draws = (torch.randperm(total, generator=generator(seed, trial)) for trial in range(TRIALS))
    smallest = sorted(_smallest(honest.sum(0), added[order].cumsum(0)) for order in draws)

    def share(probability: float) -> float | None:
        count = smallest[math.ceil(probability * TRIALS) - 1]
        return count / total if count <= total else None

    gained = found.carried[:, TRUE] & (found.ranks[:, TRUE] < below) & (found.answers[:, TRUE] != found.y)
    return LeakPower(gate=gate, share_80=share(0.8), share_95=share(0.95), gained=int(gained.sum()), total=total)


def _smallest(honest: Tensor, added: Tensor) -> int:
    """How many images have to be read for a sign, in order; one more than there are where reading all shows none.

    `honest` (counts,) is counted without reading; row i of `added` (n, counts) is what reading i + 1 images adds.
    """

    def is_seen(count: int) -> bool:
        return any_found(signs_of_counts(honest + added[count - 1]))

    low, high, total = 0, 1, len(added)
    while high < total and not is_seen(high):
        low, high = high, 2 * high
    high = min(high, total)
    if not is_seen(high):
        return total + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_seen(middle) else (middle, high)
    return high
