"""Who was right on which image under which attack, and the report's rows: unions and mixtures first."""

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
class Trial:
    """One candidate under one attack (its spec) in one threat model."""

    candidate: str
    attack: str
    threat: Threat


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """Right answers, bool (n,), of every trial; adaptive trials are on the first images alone.

    `pooled` are those on everything that was crafted through any guard; `against` what each candidate was trained against.
    """

    trials: Mapping[Trial, Tensor]
    pooled: Mapping[str, Tensor]
    against: Mapping[str, str]
    seed: int

    def rows(self) -> list[AccuracyResult]:
        return [self._row(t.candidate, t.attack, t.threat, right) for t, right in self.trials.items()]

    def mixtures(self) -> list[AccuracyResult]:
        """Counts clean and all transferred attacks in equal parts."""
        rows = []
        for name in self.against:
            right = [r for t, r in self.trials.items() if t.candidate == name and t.threat != "adaptive"]
            if len(right) > 1:
                rows.append(self._row(name, f"mixture(attacks={len(right) - 1})", "transfer", torch.cat(right)))
        return rows

    def unions(self) -> list[AccuracyResult]:
        """Counts an image only where it survives everything."""
        rows = []
        for name in self.against:
            trials = {t: r for t, r in self.trials.items() if t.candidate == name}
            if any(trial.threat == "adaptive" for trial in trials):
                few = min(len(r) for r in trials.values())
                right = torch.stack([r[:few] for r in trials.values()]).all(0) & self.pooled.get(
                    name, torch.tensor(True)
                )
                tried = len(trials) - 1
                rows.append(self._row(name, f"union(attacks={tried})", "adaptive", right))
        return rows

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
