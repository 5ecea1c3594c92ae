"""The few-shot section of a report: mean accuracies over tasks with their intervals, blends, pictures of tasks."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loradar.core.errors import BadConfigError

AVERAGE = "average"
"""The first word of the domain of a row that averages domains."""
CORRUPTIONS = "corruptions"
"""The `attack` of rows whose queries are corrupted, each task by one kind at one severity."""


@dataclass(frozen=True, kw_only=True)
class FewShotRow:
    """The mean accuracy over `episodes` tasks, in [0, 1], with the half width of its 95 % interval.

    `setting` is for example "5w1s"; `attack` is "none", "corruptions", or the setting of an attack on the method's own model.
    """

    method: str
    domain: str
    setting: str
    attack: str
    episodes: int
    mean: float
    half_width: float
    seed: int

    @classmethod
    def of(
        cls, shares: Sequence[float], *, method: str, domain: str, setting: str, attack: str, seed: int
    ) -> "FewShotRow":
        """Computes the row from the accuracy of each task. Raises BadConfigError for fewer than 2 tasks.

        The interval is Student's: of few tasks, the normal one is too narrow.

        >>> FewShotRow.of([0.4, 0.6], method="m", domain="d", setting="5w1s", attack="none", seed=0).mean
        0.5
        """
        from scipy.special import stdtrit  # here: most who read reports compute no rows

        if len(shares) < 2:
            raise BadConfigError(f"{len(shares)} tasks for {method} on {domain}; an interval needs 2 or more")
        quantile = float(stdtrit(len(shares) - 1, 0.975))
        half = quantile * statistics.stdev(shares) / math.sqrt(len(shares))
        mean = statistics.fmean(shares)
        return cls(
            method=method,
            domain=domain,
            setting=setting,
            attack=attack,
            episodes=len(shares),
            mean=mean,
            half_width=half,
            seed=seed,
        )

    @property
    def share(self) -> float:
        return self.mean

    @property
    def effort(self) -> str:
        """None: tasks are attacked as configured."""
        return ""

    @property
    def low(self) -> float:
        return max(0.0, self.mean - self.half_width)

    @property
    def high(self) -> float:
        return min(1.0, self.mean + self.half_width)

    @property
    def total(self) -> int:
        return self.episodes


def averaged(rows: Sequence[FewShotRow], domains: Sequence[str], name: str) -> list[FewShotRow]:
    """Averages `domains`, each with the same weight: a row for each method, setting and attack measured on all of them."""
    found: dict[tuple[str, str, str], dict[str, FewShotRow]] = {}
    for row in rows:
        if row.domain in domains:
            found.setdefault((row.method, row.setting, row.attack), {})[row.domain] = row
    averages = []
    for (method, setting, attack), by_domain in found.items():
        if set(by_domain) != set(domains):
            continue
        parts = list(by_domain.values())
        averages.append(
            FewShotRow(
                method=method,
                domain=f"{AVERAGE} {name}",
                setting=setting,
                attack=attack,
                episodes=sum(row.episodes for row in parts),
                mean=statistics.fmean(row.mean for row in parts),
                half_width=math.sqrt(sum(row.half_width**2 for row in parts)) / len(parts),
                seed=parts[0].seed,
            )
        )
    return averages


@dataclass(frozen=True, kw_only=True)
class BlendWeights:
    """The mean weight of each pool member in the blends of a domain's tasks."""

    domain: str
    setting: str
    episodes: int
    members: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image of a task, a PNG in base64; `answer` is "" for a support image."""

    picture: str
    label: str
    answer: str = ""


@dataclass(frozen=True, kw_only=True)
class TaskPicture:
    """The images of one task, the answers of `method`, and the weights of its blend."""

    domain: str
    setting: str
    method: str
    support: tuple[Shown, ...]
    query: tuple[Shown, ...]
    weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class FewShotSection:
    """Few-shot figures. `full` names the method that the report is about, `reference` the one without adapters.

    `differences` are those of the averages over domains from the method `untuned`, paired by task; their `mean` is in [-1, 1].

    `ablation_chain` maps each component, added in turn, to the method that has all components so far.
    """

    rows: tuple[FewShotRow, ...]
    full: str
    reference: str
    pool: Mapping[str, Any] = field(default_factory=dict)
    ablation_chain: Mapping[str, str] = field(default_factory=dict)
    blends: tuple[BlendWeights, ...] = ()
    tasks: tuple[TaskPicture, ...] = ()
    untuned: str = ""
    differences: tuple[FewShotRow, ...] = ()
