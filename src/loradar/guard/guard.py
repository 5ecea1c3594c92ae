"""The guard: a base and adapters that vote, an identifier that names the attack, and a response. One classifier."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.types import Images, Labels, Logits
from loradar.guard.calibration import Calibration
from loradar.guard.features import opinion_features, residual_statistics
from loradar.guard.fusion import FUSIONS, RULES, Opinions, Rule
from loradar.guard.identify import Identifier
from loradar.guard.masking import MaskSet, cleansed, pair_answers, two_round
from loradar.guard.measures import transforms
from loradar.guard.respond import CLEAN, UNKNOWN, Level, Policy
from loradar.guard.trunk import Trunk

BASE = "base"
ABSTAINED = -1


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """What a guard is, besides its models and its identifier. Plain values: it goes to JSON and back unchanged.

    `specialists` names the voter for each threat ("" where none is: all of them are heard then). An answer of less
    `abstain` confidence is none. With `cascade`, an image that the gate takes for clean with probability `gate` or more
    gets the base's answer, while the level is calm and no measure is forced. `masker` is the voter that masking asks.
    """

    threats: tuple[str, ...]
    specialists: Mapping[str, str]
    calibrations: Mapping[str, Calibration]
    fusion: Rule = "mean"
    base_votes: bool = False
    abstain: float = 0.0
    cascade: bool = True
    gate: float = 0.5
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
        for name in (self.masker, *filter(None, self.specialists.values())):
            if name not in self.calibrations:
                raise BadConfigError(f"the guard has no voter {name!r}; {did_you_mean(name, self.calibrations)}")
        if odd := set(self.specialists) ^ set(self.threats):
            raise BadConfigError(f"{min(odd)!r} is a threat in one of threats and specialists alone; name it in both")
        if CLEAN in self.threats or UNKNOWN in self.threats:
            raise BadConfigError(f"a threat is called {CLEAN!r} or {UNKNOWN!r}; these names are taken, choose another")
        if not 0 <= self.abstain <= 1 or not 0 <= self.gate <= 1:
            raise BadConfigError(f"abstain is {self.abstain} and gate {self.gate}; expected probabilities")
        self.policy.check(self.threats)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that the identifier gives."""
        return (CLEAN, *self.threats, UNKNOWN)

    @property
    def voters(self) -> tuple[str, ...]:
        """The base first, then the adapters, whether or not the base's vote counts."""
        return (BASE, *(name for name in self.calibrations if name != BASE))


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What a guard says of a batch.

    `logits` (batch, classes); `answers` (batch,), -1 where it abstains; `posterior` (batch, labels); `log_probs`
    (voters, batch, classes), NaN for adapters that were not asked; `passes` (batch,) the work, in forward passes of the
    base; `measured` (batch,) bool, whether the response changed anything about how the image was judged.
    """

    logits: Logits
    answers: Labels
    posterior: Tensor
    log_probs: Tensor
    passes: Tensor
    measured: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What guards of one pool share, whatever their settings: models, identifiers, and what each model costs.

    `tails` are the voters behind the `trunk`, the base first; `costs` (1 + voters,) the trunk's and each tail's part of a
    forward pass of the base. `dtype` is what they compute in (None: their own); all else is float32.
    """

    trunk: Trunk
    tails: Sequence[nn.Module]
    identifier: Identifier
    gate: Identifier
    costs: Tensor
    dtype: torch.dtype | None = None


class Guard(nn.Module):
    """Images in [0, 1], (batch, C, H, W), to logits (batch, classes). It holds no state: threads may share it.

    Only images that need it meet the adapters; under `torch.export` every image does, and the answers are the same.
    Raises BadConfigError where parts and settings do not go together.
    """

    temperatures: Tensor
    weights: Tensor
    route: Tensor
    costs: Tensor
    digest: Tensor

    def __init__(self, parts: Parts, settings: GuardSettings) -> None:
        super().__init__()
        if not len(parts.tails) == len(settings.voters) == len(parts.costs) - 1:
            raise BadConfigError(
                f"{len(parts.tails)} models and {len(parts.costs)} costs; expected {len(settings.voters)} models, for "
                f"{', '.join(settings.voters)}, and one cost more"
            )
        for each in (parts.identifier, parts.gate):
            if each.labels != settings.labels:
                raise BadConfigError(f"the identifier knows {each.labels}; the settings {settings.labels}")
        self.parts, self.settings = parts, settings
        self.trunk, self.tails = parts.trunk, nn.ModuleList(parts.tails)
        self.identifier, self.gate, self.dtype = parts.identifier, parts.gate, parts.dtype
        for name, tensor in _tables(settings).items():
            self.register_buffer(name, tensor.to(parts.costs.device))
        self.register_buffer("costs", parts.costs)
        # fingerprints see tensors alone: two guards that differ by a rule must not pass for one
        text = repr((settings, str(parts.dtype)))
        digest = torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
        self.register_buffer("digest", digest.to(parts.costs.device))
        self.eval()

    def altered(self, **changes: object) -> "Guard":
        """The same parts under settings with these fields changed. Raises BadConfigError."""
        return Guard(self.parts, dataclasses.replace(self.settings, **changes))  # type: ignore[arg-type]

    def forward(self, x: Images) -> Logits:
        return self.judge(x).logits

    def judge(self, x: Images) -> Verdict:
        """Everything that is to be said of `x`."""
        settings, exporting = self.settings, torch.compiler.is_exporting()
        shared = self.enter(x)
        base = self.opinion(0, shared)
        statistics = residual_statistics(x.float(), window=settings.window)
        passed = self.gate(torch.cat([statistics, opinion_features(base[None])], dim=1))
        skipped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if settings.cascade and settings.level == "calm" and not settings.policy.taken(CLEAN, "calm"):
            skipped = passed[:, 0] >= settings.gate
        if exporting or not bool(skipped.any()):
            full = self._consult(x, shared, base, statistics)
        else:
            rows = torch.nonzero(~skipped).squeeze(1)
            part = [tensor[rows] for tensor in (x, *shared, base, statistics)]
            full = self._spread(self._consult(part[0], tuple(part[1:-2]), part[-2], part[-1]), rows, len(x))
        # the gate's word stands where the adapters were not asked
        answer = torch.where(skipped[:, None], base, full.logits)
        confidence, answers = answer.softmax(1).max(1)
        asked = torch.where(skipped, self.costs[0] + self.costs[1], full.passes)
        return Verdict(
            logits=answer,
            answers=answers.masked_fill(confidence < settings.abstain, ABSTAINED),
            posterior=torch.where(skipped[:, None], passed, full.posterior),
            log_probs=full.log_probs,
            passes=asked,
            measured=full.measured & ~skipped,
        )

    def enter(self, x: Images) -> tuple[Tensor, ...]:
        """What the voters share."""
        if self.dtype is not None:
            x = x.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            return cast(tuple[Tensor, ...], self.trunk(x))

    def opinion(self, voter: int, shared: tuple[Tensor, ...]) -> Tensor:
        """(batch, classes) calibrated log-probabilities of one voter, float32."""
        with torch.autocast(shared[0].device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.tails[voter](*shared)
        log_probs: Tensor = (logits.float() / self.temperatures[voter]).log_softmax(1)
        return log_probs

    def opinions(self, log_probs: Tensor, posterior: Tensor) -> Opinions:
        """What the fusion rule is given: those voters whose votes count."""
        first = 0 if self.settings.base_votes else 1
        trust = (posterior @ self.route).transpose(0, 1)[first:]
        return Opinions(log_probs=log_probs[first:], weights=self.weights[first:], trust=trust)

    def _consult(self, x: Images, shared: tuple[Tensor, ...], base: Tensor, statistics: Tensor) -> Verdict:
        """All voters on all of `x`, and the response."""
        log_probs = torch.stack([base, *(self.opinion(v, shared) for v in range(1, len(self.tails)))])
        posterior = self.identifier(torch.cat([statistics, opinion_features(log_probs)], dim=1))
        fused = Verdict(
            logits=FUSIONS[self.settings.fusion](self.opinions(log_probs, posterior)),
            answers=torch.zeros(0, dtype=torch.int64, device=x.device),
            posterior=posterior,
            log_probs=log_probs,
            passes=self.costs.sum().expand(len(x)),
            measured=torch.zeros(len(x), dtype=torch.bool, device=x.device),
        )
        return self._respond(x, fused)

    def _respond(self, x: Images, verdict: Verdict) -> Verdict:
        """The verdict after the measures that the policy takes against the likeliest label of each image."""
        taken = [self.settings.policy.taken(label, self.settings.level) for label in self.settings.labels]
        if not any(taken):
            return verdict
        names = verdict.posterior.argmax(1)
        changed, moved = x, torch.zeros_like(verdict.measured)
        for measure, transform in transforms(self.settings.window).items():
            rows = torch.tensor([measure in measures for measures in taken], device=x.device)[names]
            changed = torch.where(rows[:, None, None, None], transform(changed), changed)
            moved = moved | rows
        logits, passes = verdict.logits, verdict.passes
        if torch.compiler.is_exporting() or bool(moved.any()):
            shared = self.enter(changed)
            again = torch.stack([self.opinion(v, shared) for v in range(len(self.tails))])
            fused = FUSIONS[self.settings.fusion](self.opinions(again, verdict.posterior))
            logits = torch.where(moved[:, None], fused, logits)
            passes = passes + moved * self.costs.sum()
        masked = torch.tensor(["mask" in measures for measures in taken], device=x.device)[names]
        logits, passes = self._mask(changed, masked, logits, passes)
        return dataclasses.replace(verdict, logits=logits, passes=passes, measured=moved | masked)

    def _mask(self, x: Images, masked: Tensor, logits: Logits, passes: Tensor) -> tuple[Logits, Tensor]:
        masks = self.mask_set.masks((x.shape[2], x.shape[3])).to(x.device)
        if torch.compiler.is_exporting():
            answers = two_round(pair_answers(self.masker, x, masks))
            extra = passes.new_full((len(x),), float(len(masks) * (len(masks) + 1) / 2))
            return torch.where(masked[:, None], _on_top(logits, answers), logits), passes + masked * extra
        rows = torch.nonzero(masked).squeeze(1)
        if not len(rows):
            return logits, passes
        answers, extra = cleansed(self.masker, x[rows], masks)
        return logits.index_put((rows,), _on_top(logits[rows], answers)), passes.index_add(0, rows, extra)

    @property
    def mask_set(self) -> MaskSet:
        return MaskSet(height=self.settings.window[0], width=self.settings.window[1], count=self.settings.masks)

    def masker(self, x: Images) -> Logits:
        """The voter that masking asks."""
        return self.opinion(self.settings.voters.index(self.settings.masker), self.enter(x))

    def _spread(self, part: Verdict, rows: Tensor, count: int) -> Verdict:
        """A verdict of some rows among `count`, the others left empty."""

        def spread(tensor: Tensor, filler: float) -> Tensor:
            return tensor.new_full((count, *tensor.shape[1:]), filler).index_copy(0, rows, tensor)

        voters = spread(part.log_probs.transpose(0, 1), torch.nan).transpose(0, 1)
        return Verdict(
            logits=spread(part.logits, 0.0),
            answers=part.answers,
            posterior=spread(part.posterior, 0.0),
            log_probs=voters,
            passes=spread(part.passes, 0.0),
            measured=spread(part.measured, 0),
        )


def _on_top(logits: Logits, answers: Labels) -> Logits:
    """The logits with the largest moved to the answer's class: confidence stays, the answer is another."""
    top, old = logits.max(1, keepdim=True)
    return logits.scatter(1, old, logits.gather(1, answers[:, None])).scatter(1, answers[:, None], top)


def _tables(settings: GuardSettings) -> dict[str, Tensor]:
    """Temperatures and weights by voter, and voters' trust by label."""
    found = [settings.calibrations[name] for name in settings.voters]
    heard = settings.voters if settings.base_votes else settings.voters[1:]
    chosen = {CLEAN: BASE if settings.base_votes else "", UNKNOWN: "", **settings.specialists}
    return {
        "temperatures": torch.tensor([each.temperature for each in found]),
        "weights": torch.tensor([each.weight for each in found]),
        "route": torch.stack([_trust(chosen[label], settings.voters, heard) for label in settings.labels]),
    }


def _trust(specialist: str, voters: Sequence[str], heard: Sequence[str]) -> Tensor:
    """(voters,) all trust in the specialist, or an equal part in everyone who is heard."""
    wanted = [specialist] if specialist in heard else heard
    return torch.tensor([(name in wanted) / len(wanted) for name in voters])
