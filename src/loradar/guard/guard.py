"""The guard: a base and adapters that vote, an identifier that names the attack, and a response. One classifier."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from loradar.core.checks import as_images
from loradar.core.errors import BadConfigError
from loradar.core.types import Images, Labels, Logits
from loradar.evaluation import device_of
from loradar.guard.defenses import transforms
from loradar.guard.features import residual_statistics, vote_features
from loradar.guard.files import GuardState, read_guard, save_guard
from loradar.guard.fusion import FUSIONS, Rule, Votes
from loradar.guard.masking import pair_answers, patch_cleanser, two_round
from loradar.guard.parts import Parts, assemble
from loradar.guard.settings import tables
from loradar.models import Base, Precision

ABSTAINED = -1
_INVALID = "images hold NaN, or values outside [0, 1]; expected floats in [0, 1]"


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What a guard says of a batch.

    `logits` (batch, classes); `answers` (batch,), -1 where it abstains; `posterior` (batch, labels), every label being as
    frequent, and `named` (batch, labels), under the settings' prior: its largest identifies the image; `log_probs`
    (voters, batch, classes), NaN for adapters that were not asked; `gate` (batch,) the gate's probability of clean;
    `passes` (batch,) the work, in forward passes of the base; `defended` (batch,) bool, whether a defense was applied.
    """

    logits: Logits
    answers: Labels
    posterior: Tensor
    named: Tensor
    log_probs: Tensor
    gate: Tensor
    passes: Tensor
    defended: Tensor


class Guard(nn.Module):
    """A classifier of images in [0, 1] that knows some attacks. Threads may share it.

    Called as a module, it maps one batch (batch, C, H, W) to logits (batch, classes), differentiable and exportable;
    `predict`, `predict_proba` and `predict_full` make batches. All raise BadImagesError for images outside [0, 1], NaN,
    integers, and other sizes; an exported guard asserts it, and gives such images logits that are NaN where its runtime has
    no assertions. Only images that need it are shown to the adapters; under `torch.export` every image is, and the answers
    are the same.
    """

    temperatures: Tensor
    weights: Tensor
    route: Tensor
    odds: Tensor
    costs: Tensor
    digest: Tensor

    def __init__(self, state: GuardState, parts: Parts) -> None:
        """Raises BadConfigError where state and parts do not go together. See `open` and `of`."""
        super().__init__()
        settings = state.record.settings
        if not len(parts.tails) == len(settings.voters) == len(parts.costs) - 1:
            raise BadConfigError(
                f"{len(parts.tails)} models and {len(parts.costs)} costs; expected {len(settings.voters)} models, for "
                f"{', '.join(settings.voters)}, and one cost more"
            )
        settings.mask_set.masks(state.base.input_size[1:])  # refuses a window that does not fit the images
        for identifier in (state.identifier, state.gate):
            if identifier.labels != settings.labels:
                raise BadConfigError(f"the identifier knows {identifier.labels}; the settings {settings.labels}")
        self.state, self.parts, self.settings = state, parts, settings
        self.trunk, self.tails = parts.trunk, nn.ModuleList(parts.tails)
        self.identifier, self.gate, self.dtype = state.identifier, state.gate, parts.dtype
        for name, tensor in tables(settings).items():
            self.register_buffer(name, tensor.to(parts.costs.device))
        self.register_buffer("costs", parts.costs)
        # fingerprints see tensors alone: two guards that differ by a rule must not pass for one
        text = repr((settings, str(parts.dtype)))
        digest = torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
        self.register_buffer("digest", digest.to(parts.costs.device))
        self.eval()

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        base: str | Base | nn.Module | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        key: str | Path | None = None,
    ) -> "Guard":
        """Opens a guard's folder, as `loradar guard build` or `save` writes it.

        `base` is needed only where the base has moved since, or was never in a file. With `key`, the file of a public
        key, the guard must be signed by its owner. Raises BadFileError for a folder that is damaged or not signed,
        WrongBaseError where the base or an adapter is not the one that the guard was built of.
        """
        return cls.of(read_guard(folder, base=base, device=device, key=key), precision=precision)

    @classmethod
    def of(cls, state: GuardState, *, precision: Precision = "auto") -> "Guard":
        """Makes a guard of its state, on the base's device."""
        parts = assemble(state.base, state.adapters, costs=state.record.costs, precision=precision)
        device = parts.costs.device
        state = dataclasses.replace(state, identifier=state.identifier.to(device), gate=state.gate.to(device))
        return cls(state, parts)

    def save(self, folder: Path | str) -> Path:
        """Writes a folder that `open` reads; the base is named there, not copied. Raises BadFileError."""
        return save_guard(self.state, folder)

    def replace(self, **changes: object) -> "Guard":
        """Returns a guard of the same models under settings with these fields changed. Raises BadConfigError."""
        settings = dataclasses.replace(self.settings, **changes)  # type: ignore[arg-type]
        record = dataclasses.replace(self.state.record, settings=settings)
        return Guard(dataclasses.replace(self.state, record=record), self.parts)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images that it takes."""
        return self.state.base.input_size

    @property
    def classes_(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of the labels, where they are known."""
        return self.state.base.classes

    def predict(self, x: object, *, batch_size: int = 128) -> Labels:
        """Classifies images: (n,) int64 labels on the CPU, -1 where the guard abstains.

        Args: `x` (n, *input_size), a tensor or numpy array of floats in [0, 1]. Raises BadImagesError.
        """
        return self.predict_full(x, batch_size=batch_size).answers

    def predict_proba(self, x: object, *, batch_size: int = 128) -> Tensor:
        """Returns the confidence in every class, (n, classes), each row summing to 1. Args and errors as `predict`."""
        return self.predict_full(x, batch_size=batch_size).logits.softmax(1)

    def predict_full(self, x: object, *, batch_size: int = 128) -> Verdict:
        """Returns everything that the guard found out about the images, on the CPU. Args and errors as `predict`."""
        if batch_size < 1:
            raise BadConfigError(f"batch_size is {batch_size}; expected 1 or more")
        images, device = as_images(x, input_size=self.input_size), device_of(self)
        with torch.no_grad():
            parts = [vars(self._judge(batch.to(device))) for batch in torch.split(images, batch_size)]
        return Verdict(**{name: torch.cat([part[name] for part in parts], _dim(name)).cpu() for name in parts[0]})

    def forward(self, x: Images) -> Logits:
        if not torch.compiler.is_exporting():
            return self.verdict(x).logits
        # NaN lies between nothing either
        valid = ((x >= 0) & (x <= 1)).flatten(1).all(1)
        torch._assert_async(valid.all(), _INVALID)
        return self._judge(x).logits.masked_fill(~valid[:, None], torch.nan)

    def verdict(self, x: object) -> Verdict:
        """Runs the full guard on one batch, with gradients, where it lies. Args and errors as `predict`."""
        return self._judge(as_images(x, input_size=self.input_size))

    def _judge(self, x: Images) -> Verdict:
        """The same, unchecked."""
        settings = self.settings
        shared = self.shared_features(x)
        base = self.voter_log_probs(0, shared)
        statistics = residual_statistics(x.float(), window=settings.window)
        gate_features = torch.cat([statistics, vote_features(base[None])], dim=1)
        gate = self.gate(gate_features)
        skipped = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
        if settings.gated:
            skipped = gate[:, 0] >= settings.gate
        if torch.compiler.is_exporting() or not bool(skipped.any()):
            full = self._consult(x, shared, base, statistics, gate[:, 0])
        else:
            rows = torch.nonzero(~skipped).squeeze(1)
            few = [tensor[rows] for tensor in (x, base, statistics, gate[:, 0], *shared)]
            full = _spread(self._consult(few[0], tuple(few[4:]), *few[1:4]), rows, len(x))
        # the gate decides where the adapters were not asked
        logits = torch.where(skipped[:, None], base, full.logits)
        confidence, answers = logits.softmax(1).max(1)
        # NaN is no confidence either
        abstained = ~(confidence >= settings.abstain)
        return Verdict(
            logits=logits,
            answers=answers.masked_fill(abstained, ABSTAINED),
            posterior=torch.where(skipped[:, None], gate, full.posterior),
            named=torch.where(skipped[:, None], self.gate.log_posterior(gate_features, self.odds).exp(), full.named),
            log_probs=full.log_probs,
            gate=gate[:, 0],
            passes=torch.where(skipped, self.costs[0] + self.costs[1], full.passes),
            defended=full.defended & ~skipped,
        )

    def shared_features(self, x: Images) -> tuple[Tensor, ...]:
        """Runs the part of the forward pass that all voters share."""
        if self.dtype is not None:
            x = x.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            return cast(tuple[Tensor, ...], self.trunk(x))

    def voter_log_probs(self, voter: int, shared: tuple[Tensor, ...]) -> Tensor:
        """Returns one voter's calibrated log-probabilities, (batch, classes), float32."""
        with torch.autocast(shared[0].device.type, self.dtype, enabled=self.dtype is not None):
            logits = self.tails[voter](*shared)
        log_probs: Tensor = (logits.float() / self.temperatures[voter]).log_softmax(1)
        return log_probs

    def log_probs(self, shared: tuple[Tensor, ...]) -> Tensor:
        """Returns the calibrated log-probabilities of every voter, (voters, batch, classes)."""
        return torch.stack([self.voter_log_probs(voter, shared) for voter in range(len(self.tails))])

    def votes(self, log_probs: Tensor, posterior: Tensor) -> Votes:
        """Returns the votes that count, as fusion rules take them."""
        first = 0 if self.settings.base_votes else 1
        trust = (posterior @ self.route).transpose(0, 1)[first:]
        return Votes(log_probs=log_probs[first:], weights=self.weights[first:], trust=trust)

    def fused(
        self, log_probs: Tensor, posterior: Tensor, rules: Mapping[Rule, Callable[[Votes], Tensor]] = FUSIONS
    ) -> Tensor:
        """Combines all voters' log-probabilities by the guard's rule among `rules`; or takes the voter that answers alone."""
        if self.settings.policy.answered_by:
            return log_probs[self.settings.voters.index(self.settings.policy.answered_by)]
        return rules[self.settings.fusion](self.votes(log_probs, posterior))

    def _consult(
        self, x: Images, shared: tuple[Tensor, ...], base: Tensor, statistics: Tensor, gate: Tensor
    ) -> Verdict:
        """Asks all voters about all of `x`, and responds."""
        log_probs = torch.stack([base, *(self.voter_log_probs(v, shared) for v in range(1, len(self.tails)))])
        features = torch.cat([statistics, vote_features(log_probs)], dim=1)
        posterior = self.identifier(features)
        logits = self.fused(log_probs, posterior)
        verdict = Verdict(
            logits=logits,
            answers=logits.argmax(1),
            posterior=posterior,
            named=self.identifier.log_posterior(features, self.odds).exp(),
            log_probs=log_probs,
            gate=gate,
            passes=self.costs.sum().expand(x.shape[0]),
            defended=torch.zeros(x.shape[0], dtype=torch.bool, device=x.device),
        )
        return self._respond(x, verdict)

    def _respond(self, x: Images, verdict: Verdict) -> Verdict:
        """Applies the policy's defenses against the likeliest label of each image, and classifies those images again."""
        chains = [self.settings.policy.defenses_for(label, self.settings.level) for label in self.settings.labels]
        if not any(chains):
            return verdict
        labels = verdict.named.argmax(1)
        changed, transformed = x, torch.zeros_like(verdict.defended)
        for defense, transform in transforms(self.settings.window).items():
            rows = torch.tensor([defense in chain for chain in chains], device=x.device)[labels]
            changed = torch.where(rows[:, None, None, None], transform(changed), changed)
            transformed = transformed | rows
        logits, passes = verdict.logits, verdict.passes
        if torch.compiler.is_exporting() or bool(transformed.any()):
            log_probs = self.log_probs(self.shared_features(changed))
            logits = torch.where(transformed[:, None], self.fused(log_probs, verdict.posterior), logits)
            passes = passes + transformed * self.costs.sum()
        masked = torch.tensor(["mask" in chain for chain in chains], device=x.device)[labels]
        logits, passes = self._mask(changed, masked, logits, passes)
        return dataclasses.replace(verdict, logits=logits, passes=passes, defended=transformed | masked)

    def _mask(self, x: Images, masked: Tensor, logits: Logits, passes: Tensor) -> tuple[Logits, Tensor]:
        masks = self.settings.mask_set.masks((x.shape[2], x.shape[3])).to(x.device)
        if torch.compiler.is_exporting():
            answers = two_round(pair_answers(self.masker, x, masks))
            extra = passes.new_full((x.shape[0],), float(len(masks) * (len(masks) + 1) / 2))
            return torch.where(masked[:, None], _on_top(logits, answers), logits), passes + masked * extra
        rows = torch.nonzero(masked).squeeze(1)
        if not len(rows):
            return logits, passes
        answers, extra = patch_cleanser(self.masker, x[rows], masks)
        return logits.index_put((rows,), _on_top(logits[rows], answers)), passes.index_add(0, rows, extra)

    def masker(self, x: Images) -> Logits:
        """Runs the voter that masking asks."""
        return self.voter_log_probs(self.settings.voters.index(self.settings.masker), self.shared_features(x))


def _dim(name: str) -> int:
    """The dimension of a Verdict's field that runs over images."""
    return 1 if name == "log_probs" else 0


def _spread(part: Verdict, rows: Tensor, count: int) -> Verdict:
    """The verdict on some rows among `count`; the others are 0, and NaN where no voter was asked."""

    def spread(name: str, tensor: Tensor) -> Tensor:
        shape = list(tensor.shape)
        shape[_dim(name)] = count
        return tensor.new_full(shape, torch.nan if name == "log_probs" else 0).index_copy(_dim(name), rows, tensor)

    return Verdict(**{name: spread(name, tensor) for name, tensor in vars(part).items()})


def _on_top(logits: Logits, answers: Labels) -> Logits:
    """The logits with the largest moved to the answer's class: confidence stays, the answer is another."""
    top, old = logits.max(1, keepdim=True)
    return logits.scatter(1, old, logits.gather(1, answers[:, None])).scatter(1, answers[:, None], top)
