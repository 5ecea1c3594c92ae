"""The surrogate: a guard with every hard choice softened, for gradient attacks to go through."""

import math
from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.types import Images, Logits
from loradar.guard.defenses import Defense, transforms
from loradar.guard.features import residual_statistics, vote_features
from loradar.guard.fusion import SURROGATES
from loradar.guard.guard import Guard
from loradar.guard.masking import GREY

GATE_WIDTH = 0.1
MASKS = 8
STATEMENT = (
    "Surrogate: a vote is attacked as the mean of the calibrated probabilities (weighted where the vote is), a routed "
    "choice as the mean under the identifier's posterior; the gate's threshold as a sigmoid of width 0.1; a policy as the "
    "mixture of its defenses under the posterior; rounding by the gradient of the identity (BPDA); two-round masking as "
    "the mean over 8 evenly spread masks. Every image that it yields is answered by the guard itself."
)


class Surrogate(nn.Module):
    """Maps images in [0, 1] to differentiable logits (batch, classes) near the guard's own; see STATEMENT."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        # rules that are attacked through the same pool get the very same surrogate, so that its images serve both
        same = {"majority": "mean", "routed": "soft-routed"}.get(guard.settings.fusion)
        self.guard = guard.replace(fusion=same) if same else guard

    def forward(self, x: Images) -> Logits:
        return self.attacked(x)[0]

    def attacked(self, x: Images) -> tuple[Logits, Tensor]:
        """Returns the logits, and (batch,) the log-probability of clean: the gate's, where the gate decides."""
        guard, settings = self.guard, self.guard.settings
        log_probs, log_posterior, log_named, statistics = self._identify(x)
        scores = self._responded(x, log_probs, log_posterior.exp(), log_named)
        if not settings.gated:
            return scores, log_named[:, 0]
        log_clean = guard.gate.log_posterior(torch.cat([statistics, vote_features(log_probs[:1])], dim=1))[:, 0]
        above = ((log_clean.exp() - settings.gate) / GATE_WIDTH)[:, None]
        passed, held = F.logsigmoid(above) + log_probs[0], F.logsigmoid(-above) + scores.log_softmax(1)
        return torch.logaddexp(passed, held), log_clean

    def _identify(self, x: Images) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Computes all voters' log-probabilities, the log-posterior, that under the prior, and the image's statistics."""
        guard = self.guard
        log_probs = guard.log_probs(guard.shared_features(x))
        statistics = residual_statistics(x.float(), window=guard.settings.window)
        features = torch.cat([statistics, vote_features(log_probs)], dim=1)
        identifier = guard.identifier
        return log_probs, identifier.log_posterior(features), identifier.log_posterior(features, guard.odds), statistics

    def _responded(self, x: Images, log_probs: Tensor, posterior: Tensor, log_named: Tensor) -> Logits:
        """Softens the fusion; where the policy acts, mixes over its chains of defenses by each label's probability."""
        guard, settings = self.guard, self.guard.settings
        chains: dict[tuple[Defense, ...], list[int]] = defaultdict(list)
        for index, label in enumerate(settings.labels):
            chains[settings.policy.defenses_for(label, settings.level)].append(index)
        parts = []
        for chain, labels in chains.items():
            logits = self._chain(x, chain, posterior) if chain else guard.fused(log_probs, posterior, SURROGATES)
            if len(chains) == 1:
                return logits
            parts.append(log_named[:, labels].logsumexp(1, keepdim=True) + logits.log_softmax(1))
        return torch.stack(parts).logsumexp(0)

    def _chain(self, x: Images, chain: tuple[Defense, ...], posterior: Tensor) -> Logits:
        guard = self.guard
        for defense, transform in transforms(guard.settings.window).items():
            x = transform(x) if defense in chain else x
        if "mask" in chain:
            return self._masked(x)
        return guard.fused(guard.log_probs(guard.shared_features(x)), posterior, SURROGATES)

    def _masked(self, x: Images) -> Logits:
        masks = self.guard.settings.mask_set.masks((x.shape[2], x.shape[3])).to(x.device)
        chosen = masks[torch.linspace(0, len(masks) - 1, min(MASKS, len(masks)), device=x.device).long()]
        painted = x[:, None].masked_fill(chosen[None, :, None], GREY).flatten(0, 1)
        log_probs = self.guard.masker(painted).view(len(x), len(chosen), -1)
        return log_probs.logsumexp(1) - math.log(len(chosen))
