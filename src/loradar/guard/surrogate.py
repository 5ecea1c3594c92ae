"""What a gradient attack on a guard goes through: the guard with every hard choice softened."""

from collections import defaultdict

import torch
from torch import Tensor, nn

from loradar.core.types import Images, Logits
from loradar.guard.features import opinion_features, residual_statistics
from loradar.guard.fusion import SURROGATES
from loradar.guard.guard import Guard
from loradar.guard.masking import GREY
from loradar.guard.measures import Measure, transforms

GATE_WIDTH = 0.1
MASKS = 8
STATEMENT = (
    "Surrogate: a vote is attacked as the mean of the calibrated probabilities (weighted where the vote is), a routed "
    "choice as the mean under the identifier's posterior; the gate's threshold as a sigmoid of width 0.1; a policy as the "
    "mixture of its measures under the posterior; rounding by the gradient of the identity (BPDA); two-round masking as "
    "the mean over 8 evenly spread masks. Every image that it yields is judged by the guard itself."
)
_LEAST = 1e-8


class Surrogate(nn.Module):
    """Images in [0, 1] to logits (batch, classes) that are differentiable and near the guard's own; see STATEMENT."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        # rules that are attacked through the same pool get the very same surrogate, so that its images serve both
        same = {"majority": "mean", "routed": "soft-routed"}.get(guard.settings.fusion)
        self.guard = guard.altered(fusion=same) if same else guard

    def forward(self, x: Images) -> Logits:
        guard, settings = self.guard, self.guard.settings
        log_probs, posterior, statistics = self._look(x)
        scores = self._responded(x, log_probs, posterior)
        if self._gated:
            passed = guard.gate(torch.cat([statistics, opinion_features(log_probs[:1])], dim=1))[:, :1]
            through = ((passed - settings.gate) / GATE_WIDTH).sigmoid()
            mixed = through * log_probs[0].exp() + (1 - through) * scores.softmax(1)
            scores = mixed.clamp_min(_LEAST).log()
        return scores

    def log_clean(self, x: Images) -> Tensor:
        """(batch,) log-probability of the name clean: the gate's where there is one, since its word lets an image pass."""
        log_probs, posterior, statistics = self._look(x)
        if self._gated:
            posterior = self.guard.gate(torch.cat([statistics, opinion_features(log_probs[:1])], dim=1))
        return posterior[:, 0].clamp_min(_LEAST).log()

    @property
    def _gated(self) -> bool:
        settings = self.guard.settings
        return settings.cascade and settings.level == "calm" and not settings.policy.forced

    def _look(self, x: Images) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of all voters, the posterior, and the image's statistics."""
        guard = self.guard
        shared = guard.enter(x)
        log_probs = torch.stack([guard.opinion(voter, shared) for voter in range(len(guard.tails))])
        statistics = residual_statistics(x.float(), window=guard.settings.window)
        return log_probs, guard.identifier(torch.cat([statistics, opinion_features(log_probs)], dim=1)), statistics

    def _responded(self, x: Images, log_probs: Tensor, posterior: Tensor) -> Logits:
        """The softened fusion; where the policy acts, mixed over its chains of measures under the posterior."""
        guard, settings = self.guard, self.guard.settings
        chains: dict[tuple[Measure, ...], list[int]] = defaultdict(list)
        for index, label in enumerate(settings.labels):
            chains[settings.policy.taken(label, settings.level)].append(index)
        found = torch.zeros_like(log_probs[0])
        for chain, labels in chains.items():
            if chain:
                logits = self._chain(x, chain, posterior)
            else:
                logits = SURROGATES[settings.fusion](guard.opinions(log_probs, posterior))
            if len(chains) == 1:
                return logits
            found = found + posterior[:, labels].sum(1, keepdim=True) * logits.softmax(1)
        return found.clamp_min(_LEAST).log()

    def _chain(self, x: Images, chain: tuple[Measure, ...], posterior: Tensor) -> Logits:
        guard = self.guard
        for measure, transform in transforms(guard.settings.window).items():
            x = transform(x) if measure in chain else x
        if "mask" in chain:
            return self._masked(x)
        shared = guard.enter(x)
        log_probs = torch.stack([guard.opinion(voter, shared) for voter in range(len(guard.tails))])
        return SURROGATES[guard.settings.fusion](guard.opinions(log_probs, posterior))

    def _masked(self, x: Images) -> Logits:
        masks = self.guard.mask_set.masks((x.shape[2], x.shape[3])).to(x.device)
        chosen = masks[torch.linspace(0, len(masks) - 1, min(MASKS, len(masks)), device=x.device).long()]
        painted = x[:, None].masked_fill(chosen[None, :, None], GREY).flatten(0, 1)
        probabilities = self.guard.masker(painted).exp().view(len(x), len(chosen), -1).mean(1)
        return probabilities.clamp_min(_LEAST).log()
