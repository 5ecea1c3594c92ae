"""Figures of few-shot tasks: the mean over tasks with its interval, and the report they make."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from loradar.core.errors import BadConfigError
from loradar.report.files import read, to_text

AVERAGE = "average"
"""What the domain of a row begins with that averages domains."""
CORRUPTIONS = "corruptions"
"""The `attack` of rows whose queries are corrupted, a kind and a severity for each task."""


@dataclass(frozen=True, kw_only=True)
class FewShotRow:
    """The mean share of right answers over `episodes` tasks, in [0, 1], with the half width of its 95 % interval.

    `setting` is for example "5w1s"; `attack` the repr of the attack on each method's own model, "none" or "corruptions".
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
        """From the share of each task. Raises BadConfigError for fewer than 2 tasks: they have no interval.

        >>> FewShotRow.of([0.4, 0.6], method="m", domain="d", setting="5w1s", attack="none", seed=0).mean
        0.5
        """
        if len(shares) < 2:
            raise BadConfigError(f"{len(shares)} tasks for {method} on {domain}; an interval needs 2 or more")
        half = 1.96 * statistics.stdev(shares) / math.sqrt(len(shares))
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


def averaged(rows: Sequence[FewShotRow], domains: Sequence[str], name: str) -> list[FewShotRow]:
    """A row for each method, setting and attack that was measured on all of `domains`: their mean, all weighing alike."""
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
    """The mean share of each member in the blends of a domain's tasks."""

    domain: str
    setting: str
    episodes: int
    members: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of a task, PNG in base64; `answer` is "" for a support image."""

    picture: str
    label: str
    answer: str = ""


@dataclass(frozen=True, kw_only=True)
class TaskPicture:
    """A task as people can see it, and how the blend for it was made."""

    domain: str
    setting: str
    method: str
    support: tuple[Shown, ...]
    query: tuple[Shown, ...]
    weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class FewShotReport:
    """Figures and what they need. `ablation_chain` maps each component, added in turn, to the method that has all so far."""

    rows: tuple[FewShotRow, ...]
    base: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, Any]
    title: str = "Few-shot report"
    full: str = "AMT"
    settings: Mapping[str, Any] = field(default_factory=dict)
    pool: Mapping[str, Any] = field(default_factory=dict)
    ablation_chain: Mapping[str, str] = field(default_factory=dict)
    blends: tuple[BlendWeights, ...] = ()
    tasks: tuple[TaskPicture, ...] = ()
    notes: tuple[str, ...] = ()


_FORM = TypeAdapter(FewShotReport)


def read_few_shot_report(path: Path | str) -> FewShotReport:
    """The report in a folder or a file. Raises BadFileError where there is none, or it is damaged."""
    return read(_FORM, path)


def few_shot_to_json(report: FewShotReport) -> str:
    """The fixed form. Raises BadConfigError for a value that JSON cannot hold."""
    return to_text(_FORM, report, indent=1)
