"""A quick look at a classifier: which attacks break it, in about a minute, with a verdict in words."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from loradar.attacks import named_attacks
from loradar.attacks.objectives import gradient
from loradar.core.config import Effort
from loradar.core.modules import check_logits
from loradar.core.timing import timed
from loradar.core.types import Attack, Progress
from loradar.data import Source, load_source
from loradar.evaluation.battery import members, passes, probe_members
from loradar.evaluation.worst_case import PROBED
from loradar.jobs import audit
from loradar.jobs.bases import at_size, open_model, unseen_by
from loradar.jobs.config import AuditConfig, CheckConfig
from loradar.models import Base
from loradar.report.schema import Report
from loradar.report.verdict import Verdict, next_steps, verdicts

LEAST, MOST = 50, 500
"""Images that are attacked where nobody says how many."""
_OWN = 20
"""Forward and backward passes per image that a configured attack takes before its battery, about."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CheckResult:
    """The verdict in words, what to do next, and the report that they come from. `print(result)` prints the words."""

    verdict: Verdict
    next_steps: tuple[str, ...]
    report: Report

    def __str__(self) -> str:
        return "\n".join([self.verdict.text, *(f"- {step}" for step in self.next_steps)])


def default_attacks(size: tuple[int, int]) -> list[str]:
    """Names a norm-bounded attack in L-inf and in L2, and an occluding rectangle, in proportion to (height, width).

    >>> default_attacks((32, 32))
    ['linf=pgd', 'l2=pgd:norm=l2,eps=0.5', 'occlusion=roa-quick:height=5,width=5']
    """
    side = min(size)
    rectangle = max(1, round(5 * side / 32))
    return [
        "linf=pgd" if side <= 64 else "linf=pgd:eps=4/255",
        f"l2=pgd:norm=l2,eps={0.5 * side / 32:g}",
        f"occlusion=roa-quick:height={rectangle},width={rectangle}",
    ]


def resolve(
    config: CheckConfig,
    *,
    base: Base | None = None,
    source: Source | None = None,
    attacks: Mapping[str, Attack] | None = None,
) -> audit.AuditJob:
    """Opens what `config` names. Without a number of images, as many are taken as `config.seconds` allow."""
    base = at_size(open_model(config.base, config.device) if base is None else base, config.size)
    if source is None:
        source = unseen_by(config.base, config.data, load_source(config.data, size=base.input_size[1:]))
    there = len(source.train if source.test is None else source.test)
    specs = config.attacks or default_attacks(base.input_size[1:])
    attacks = named_attacks(specs) if attacks is None else attacks
    count = config.max_test_images or affordable_images(base, config.seconds, attacks.values(), config.effort)
    count = min(there, count)
    settings = AuditConfig(
        base=config.base,
        data=config.data,
        attacks=specs,
        threat=["adaptive"],
        effort=config.effort,
        max_test_images=max(1, count if source.test is not None else min(count, there // 2)),
        batch_size=config.batch_size,
        precision=config.precision,
        device=config.device,
        seed=config.seed,
    )
    return audit.resolve(settings, base=base, source=source, attacks=attacks, adapters={})


def run(job: audit.AuditJob, *, progress: Progress | None = None) -> CheckResult:
    """Attacks the base itself, and says in words what came out."""
    with tempfile.TemporaryDirectory() as folder:
        settings = job.config.model_copy(update={"cache": Path(folder)})
        report = audit.measured(audit.with_settings(job, settings), progress)
    return CheckResult(verdict=verdicts(report)[0], next_steps=tuple(next_steps(report)), report=report)


def affordable_images(base: Base, seconds: float, attacks: Iterable[Attack], effort: Effort) -> int:
    """Counts the images that `attacks` and their batteries can take in `seconds` where all survive; 50 to 500.

    One pass is timed. The first of them are also tried by the next effort up, which takes most of the time.
    """
    x = torch.rand(8, *base.input_size).to(next(base.model.parameters(), torch.empty(0)).device)
    one = timed(lambda: gradient(lambda images: check_logits(base.model(images), len(images)).sum(1), x)) / len(x)
    own, probe = 0.0, 0.0
    for attack in attacks:
        own += _OWN + passes(members(attack, effort, shape=base.input_size, classes=base.num_classes))
        probe += passes(probe_members(attack, effort, shape=base.input_size, classes=base.num_classes))
    there = seconds / one
    count = min(there / (own + probe), PROBED) + max(0.0, there - PROBED * (own + probe)) / own
    return int(min(MOST, max(LEAST, count)))
