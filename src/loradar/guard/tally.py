"""Who was right on which image under which attack, and the rows that come of it: unions and mixtures first."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loradar.core.types import Threat
from loradar.evaluation import AccuracyResult

UNION = (
    "Union: an image counts only if it is answered rightly clean, under every transferred attack, and under every adaptive "
    "one; for a guard also under those that would be named clean, and under what was crafted through the other guards of "
    "this report."
)


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """One candidate under one attack (its repr) in one threat model."""

    candidate: str
    attack: str
    threat: Threat


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """Who was right on which image, bool (n,), in every meeting; adaptive meetings on the first images alone."""

    meetings: Mapping[Meeting, Tensor]
    pooled: Mapping[str, Tensor]
    against: Mapping[str, str]
    costs: Mapping[str, float]
    seed: int

    def rows(self) -> list[AccuracyResult]:
        return [self._row(m.candidate, m.attack, m.threat, right) for m, right in self.meetings.items()]

    def mixtures(self) -> list[AccuracyResult]:
        """Clean and all transferred attacks in equal parts."""
        found = []
        for name in self.against:
            mine = [r for m, r in self.meetings.items() if m.candidate == name and m.threat != "adaptive"]
            if len(mine) > 1:
                found.append(self._row(name, f"mixture(attacks={len(mine) - 1})", "transfer", torch.cat(mine)))
        return found

    def unions(self) -> list[AccuracyResult]:
        """An image counts only where it survives everything."""
        found = []
        for name in self.against:
            mine = {m: r for m, r in self.meetings.items() if m.candidate == name}
            if any(m.threat == "adaptive" for m in mine):
                few = min(len(r) for r in mine.values())
                right = torch.stack([r[:few] for r in mine.values()]).all(0) & self.pooled.get(name, torch.tensor(True))
                tried = len(mine) - 1
                found.append(self._row(name, f"union(attacks={tried})", "adaptive", right))
        return found

    def _row(self, name: str, attack: str, threat: Threat, right: Tensor) -> AccuracyResult:
        return AccuracyResult.count(
            model=name,
            attack=attack,
            threat=threat,
            correct=int(right.sum()),
            total=len(right),
            seed=self.seed,
            trained_against=self.against[name],
        )
