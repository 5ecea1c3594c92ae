"""The settings of a guard: everything besides its models and its identifier."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from loradar.core.errors import BadConfigError, did_you_mean
from loradar.guard.calibration import Calibration
from loradar.guard.fusion import RULES, Rule
from loradar.guard.masking import MaskSet
from loradar.guard.policy import CLEAN, UNKNOWN, Level, Policy

BASE = "base"


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """The settings of a guard. Plain values, which go to JSON and back unchanged.

    `specialists` names the voter for each threat ("" for none: all of them count then). The guard abstains below the
    confidence `abstain`. With `cascade`, an image that the gate takes for clean with probability `gate` or more gets the
    base's answer, while the level is calm, no defense is forced and no voter of the policy answers alone. `prior`
    multiplies the identifier's odds of a label (1 where the label is not there) before it identifies an image; the
    fusion does not see it. `masker` is the voter that masking asks.
    """

    threats: tuple[str, ...]
    specialists: Mapping[str, str]
    calibrations: Mapping[str, Calibration]
    fusion: Rule = "soft-routed"
    base_votes: bool = False
    abstain: float = 0.0
    cascade: bool = True
    gate: float = 0.5
    prior: Mapping[str, float] = field(default_factory=dict)
    level: Level = "calm"
    policy: Policy = field(default_factory=Policy)
    window: tuple[int, int] = (5, 5)
    masker: str = BASE
    masks: int = 6

    def __post_init__(self) -> None:
        if self.fusion not in RULES:
            raise BadConfigError(f"there is no fusion {self.fusion!r}; {did_you_mean(self.fusion, RULES)}")
        if BASE not in self.calibrations or len(self.calibrations) < 2:
            raise BadConfigError("a guard needs the base and an adapter at least, each calibrated")
        for name in filter(None, (self.masker, self.policy.answered_by, *self.specialists.values())):
            if name not in self.calibrations:
                raise BadConfigError(f"the guard has no voter {name!r}; {did_you_mean(name, self.calibrations)}")
        if odd := set(self.specialists) ^ set(self.threats):
            raise BadConfigError(f"{min(odd)!r} is a threat in one of threats and specialists alone; name it in both")
        if not 0 <= self.abstain <= 1 or not 0 <= self.gate <= 1:
            raise BadConfigError(f"abstain is {self.abstain} and gate {self.gate}; expected probabilities")
        for label, times in self.prior.items():
            if label not in self.labels or not 0 < times < math.inf:
                raise BadConfigError(
                    f"the prior of {label!r} is {times}; expected a number above 0 for any of {', '.join(self.labels)}"
                )
        self.policy.check(self.threats)
        _ = self.mask_set  # checks window and masks

    @property
    def mask_set(self) -> MaskSet:
        """The masks of two-round masking, against rectangles of the window's size."""
        return MaskSet(height=self.window[0], width=self.window[1], count=self.masks)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the identifier gives."""
        return (CLEAN, *self.threats, UNKNOWN)

    @property
    def voters(self) -> tuple[str, ...]:
        """The base first, then the adapters, whether or not the base's vote counts."""
        return (BASE, *(name for name in self.calibrations if name != BASE))

    @property
    def gated(self) -> bool:
        """Whether the gate may let an image pass."""
        return self.cascade and self.level == "calm" and not self.policy.forced and not self.policy.answered_by

    @property
    def rule(self) -> str:
        """What answers, in words: the fusion rule, or the voter that answers alone."""
        return f"{self.policy.answered_by} with monitor" if self.policy.answered_by else self.fusion


def tables(settings: GuardSettings) -> dict[str, Tensor]:
    """Returns temperatures and weights by voter, trust in voters by label, logarithms of the labels' priors."""
    calibrations = [settings.calibrations[name] for name in settings.voters]
    counted = settings.voters if settings.base_votes else settings.voters[1:]
    chosen = {CLEAN: BASE if settings.base_votes else "", UNKNOWN: "", **settings.specialists}
    return {
        "temperatures": torch.tensor([each.temperature for each in calibrations]),
        "weights": torch.tensor([each.weight for each in calibrations]),
        "odds": torch.tensor([math.log(settings.prior.get(label, 1.0)) for label in settings.labels]),
        "route": torch.stack([_trust(chosen[label], settings.voters, counted) for label in settings.labels]),
    }


def _trust(specialist: str, voters: Sequence[str], counted: Sequence[str]) -> Tensor:
    """Puts all trust in the specialist, or equal parts in the voters that are counted: (voters,)."""
    wanted = [specialist] if specialist in counted else counted
    return torch.tensor([(name in wanted) / len(wanted) for name in voters])
