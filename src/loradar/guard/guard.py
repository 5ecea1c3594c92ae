"""The guard: a base and adapters that vote, an identifier that names the attack, and a response. One classifier."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.types import Images, Labels, Logits
from loradar.guard.defenses import transforms
from loradar.guard.features import opinion_features, residual_statistics
from loradar.guard.fusion import FUSIONS, Opinions
from loradar.guard.identify import Identifier
from loradar.guard.masking import MaskSet, cleansed, pair_answers, two_round
from loradar.guard.settings import GuardSettings, tables
from loradar.guard.trunk import Trunk

ABSTAINED = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What a guard says of a batch.

    `logits` (batch, classes); `answers` (batch,), -1 where it abstains; `posterior` (batch, labels), for which every
    label is as frequent, and `named` (batch, labels), under the settings' prior: its largest names the image; `log_probs`
    (voters, batch, classes), NaN for adapters that were not asked; `gate` (batch,) the gate's probability of clean;
    `passes` (batch,) the work, in forward passes of the base; `measured` (batch,) bool, whether the response changed
    anything about how the image was judged.
    """

    logits: Logits
    answers: Labels
    posterior: Tensor
    named: Tensor
    log_probs: Tensor
    gate: Tensor
    passes: Tensor
    measured: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class _Consulted:
    """What all voters together say of images: fields as in `Verdict`."""

    logits: Logits
    posterior: Tensor
    named: Tensor
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
    odds: Tensor
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
        for name, tensor in tables(settings).items():
            self.register_buffer(name, tensor.to(parts.costs.device))
        self.register_buffer("costs", parts.costs)
        # fingerprints see tensors alone: two guards that differ by a rule must not pass for one
        text = repr((settings, str(parts.dtype)))
        digest = torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
        self.register_buffer("digest", digest.to(parts.costs.device))
        self.eval()

    def replace(self, **changes: object) -> "Guard":
        """The same parts under settings with these fields changed. Raises BadConfigError."""
        return Guard(self.parts, dataclasses.replace(self.settings, **changes))  # type: ignore[arg-type]

    def forward(self, x: Images) -> Logits:
        return self.predict_full(x).logits

    def predict_full(self, x: Images) -> Verdict:
        """Everything that is to be said of `x`."""
        settings, exporting = self.settings, torch.compiler.is_exporting()
        shared = self.shared_features(x)
        base = self.voter_log_probs(0, shared)
        statistics = residual_statistics(x.float(), window=settings.window)
        seen = torch.cat([statistics, opinion_features(base[None])], dim=1)
        passed = self.gate(seen)
        skipped = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if settings.gated:
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
            named=torch.where(skipped[:, None], self.gate.log_posterior(seen, self.odds).exp(), full.named),
            log_probs=full.log_probs,
            gate=passed[:, 0],
            passes=asked,
            measured=full.measured & ~skipped,
        )

    def shared_features(self, x: Images) -> tuple[Tensor, ...]:
        """What the voters share."""
        if self.dtype is not None:
            x = x.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            return cast(tuple[Tensor, ...], self.trunk(x))

    def voter_log_probs(self, voter: int, shared: tuple[Tensor, ...]) -> Tensor:
        """(batch, classes) calibrated log-probabilities of one voter, float32."""
        with torch.autocast(shared[0].device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.tails[voter](*shared)
        log_probs: Tensor = (logits.float() / self.temperatures[voter]).log_softmax(1)
        return log_probs

    def log_probs(self, shared: tuple[Tensor, ...]) -> Tensor:
        """(voters, batch, classes) the opinion of each."""
        return torch.stack([self.voter_log_probs(voter, shared) for voter in range(len(self.tails))])

    def opinions(self, log_probs: Tensor, posterior: Tensor) -> Opinions:
        """What the fusion rule is given: those voters whose votes count."""
        first = 0 if self.settings.base_votes else 1
        trust = (posterior @ self.route).transpose(0, 1)[first:]
        return Opinions(log_probs=log_probs[first:], weights=self.weights[first:], trust=trust)

    def _consult(self, x: Images, shared: tuple[Tensor, ...], base: Tensor, statistics: Tensor) -> _Consulted:
        """All voters on all of `x`, and the response."""
        log_probs = torch.stack([base, *(self.voter_log_probs(v, shared) for v in range(1, len(self.tails)))])
        seen = torch.cat([statistics, opinion_features(log_probs)], dim=1)
        posterior = self.identifier(seen)
        fused = _Consulted(
            logits=FUSIONS[self.settings.fusion](self.opinions(log_probs, posterior)),
            posterior=posterior,
            named=self.identifier.log_posterior(seen, self.odds).exp(),
            log_probs=log_probs,
            passes=self.costs.sum().expand(len(x)),
            measured=torch.zeros(len(x), dtype=torch.bool, device=x.device),
        )
        return self._respond(x, fused)

    def _respond(self, x: Images, verdict: _Consulted) -> _Consulted:
        """What is said after the measures that the policy takes against the likeliest label of each image."""
        taken = [self.settings.policy.taken(label, self.settings.level) for label in self.settings.labels]
        if not any(taken):
            return verdict
        names = verdict.named.argmax(1)
        changed, moved = x, torch.zeros_like(verdict.measured)
        for defense, transform in transforms(self.settings.window).items():
            rows = torch.tensor([defense in defenses for defenses in taken], device=x.device)[names]
            changed = torch.where(rows[:, None, None, None], transform(changed), changed)
            moved = moved | rows
        logits, passes = verdict.logits, verdict.passes
        if torch.compiler.is_exporting() or bool(moved.any()):
            again = self.log_probs(self.shared_features(changed))
            fused = FUSIONS[self.settings.fusion](self.opinions(again, verdict.posterior))
            logits = torch.where(moved[:, None], fused, logits)
            passes = passes + moved * self.costs.sum()
        masked = torch.tensor(["mask" in defenses for defenses in taken], device=x.device)[names]
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
        return self.voter_log_probs(self.settings.voters.index(self.settings.masker), self.shared_features(x))

    def _spread(self, part: _Consulted, rows: Tensor, count: int) -> _Consulted:
        """What was said of some rows among `count`, the others left empty."""

        def spread(tensor: Tensor, filler: float) -> Tensor:
            return tensor.new_full((count, *tensor.shape[1:]), filler).index_copy(0, rows, tensor)

        voters = spread(part.log_probs.transpose(0, 1), torch.nan).transpose(0, 1)
        return _Consulted(
            logits=spread(part.logits, 0.0),
            posterior=spread(part.posterior, 0.0),
            named=spread(part.named, 0.0),
            log_probs=voters,
            passes=spread(part.passes, 0.0),
            measured=spread(part.measured, 0),
        )


def _on_top(logits: Logits, answers: Labels) -> Logits:
    """The logits with the largest moved to the answer's class: confidence stays, the answer is another."""
    top, old = logits.max(1, keepdim=True)
    return logits.scatter(1, old, logits.gather(1, answers[:, None])).scatter(1, answers[:, None], top)
