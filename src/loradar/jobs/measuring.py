"""The figures of a hardening: which model is measured by which attacks, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loradar.core.types import Attack, Threat
from loradar.evaluation import AccuracyResult, Picture
from loradar.evaluation import candidates as figures
from loradar.evaluation.candidates import Candidate, OnBench, ReportedImages
from loradar.evaluation.workbench import Workbench
from loradar.evaluation.worst_case import WorstCase, worst_case
from loradar.jobs.config import HardenConfig
from loradar.jobs.members import Member


@dataclass(frozen=True, kw_only=True, eq=False)
class Measuring:
    """Everything that figures are made from."""

    bench: Workbench
    config: HardenConfig
    transfer: Mapping[str, Attack]
    adaptive: Mapping[str, Attack]
    reported: ReportedImages

    def rows(self, one: Candidate, member: Member | None) -> list[AccuracyResult]:
        """Clean and transfer. The base (no member) and adapters meet every attack, baselines their own."""
        everywhere = member is None or member.kind == "adapter"
        moved = self._of(self.transfer, member, "all" if everywhere else "own")
        return [
            figures.clean_row(self.bench, one, self.reported),
            *(figures.transfer_row(self.bench, one, attack, self.reported) for attack in moved),
        ]

    def worst_cases(self, one: Candidate, member: Member | None, others: Sequence[Candidate]) -> list[WorstCase]:
        """Adaptive figures over the battery; those of an adapter are tried by the next effort up."""
        few = self.reported.first(self.config.max_adaptive_images)
        targets = [OnBench(bench=self.bench, one=each) for each in (one, *others)]
        return [
            worst_case(
                targets[0],
                attack,
                few.x,
                few.y,
                effort=self.config.effort,
                others=targets[1:],
                seed=few.seed,
                probed=member is not None and member.kind == "adapter",
            )
            for attack in self._of(self.adaptive, member, self.config.adaptive)
        ]

    def last_rows(self, one: Candidate, member: Member) -> list[AccuracyResult]:
        """The cheap figures, clean and transfer, for an epoch that was not selected."""
        return [
            figures.clean_row(self.bench, one, self.reported),
            *(
                figures.transfer_row(self.bench, one, attack, self.reported)
                for attack in self._of(self.transfer, member, "own")
            ),
        ]

    def pictures(self, one: Candidate, member: Member, classes: Sequence[str]) -> list[Picture]:
        """Under the attack of `rows` that the adapter was trained against, adaptive before transfer."""
        adaptive = [] if self.config.adaptive == "none" else self._of(self.adaptive, member, "own")
        few = self.reported.first(self.config.max_adaptive_images)
        shown: list[tuple[Threat, Attack, ReportedImages]] = [("adaptive", attack, few) for attack in adaptive]
        shown += [("transfer", attack, self.reported) for attack in self._of(self.transfer, member, "own")]
        return [p for t, a, x in shown for p in figures.pictures(self.bench, one, a, t, x, classes)]

    def _of(self, attacks: Mapping[str, Attack], member: Member | None, which: str) -> list[Attack]:
        """Those that a model is measured by: none, all, or its own where one has the name that it was trained against."""
        if which == "none":
            return []
        if which == "own" and member is not None and member.against in attacks:
            return [attacks[member.against]]
        return list(attacks.values())
