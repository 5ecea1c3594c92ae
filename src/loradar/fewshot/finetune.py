"""Fine-tuning on a task's support, with PMF's recipe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.modules import evaluating
from loradar.core.types import Images, Labels
from loradar.fewshot.chunks import in_chunks
from loradar.fewshot.heads import cosine_logits, prototypes_of

Augment = Callable[[Images, int], Images]
"""(images, seed) -> as many, varied."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Hu et al. (PMF), 2022, section 3.3: Adam on all weights, augmented support against prototypes of the clean one.

    PMF chooses the rate for each domain on labelled tasks. Here the support alone chooses it: the rate whose weights have
    the smallest loss on copies of the support that were not trained on.
    """

    steps: int = 40
    rates: tuple[float, ...] = (0.0, 1e-4, 1e-3, 1e-2)

    def __call__(
        self, make: Callable[[], nn.Module], x: Images, y: Labels, *, way: int, augment: Augment, seed: int
    ) -> tuple[nn.Module, float]:
        """The tuned model of features, and the rate it was tuned with. `make` gives a fresh model to be moved."""
        tried = [(self._tuned(make(), rate, x, y, way, augment, seed), rate) for rate in self.rates]
        held_out = augment(x, seed + self.steps)
        losses = []
        for model, _ in tried:
            with torch.no_grad(), evaluating(model):
                losses.append(float(_loss(model, x, held_out, y, way)))
        return tried[losses.index(min(losses))]

    def _tuned(
        self, model: nn.Module, rate: float, x: Images, y: Labels, way: int, augment: Augment, seed: int
    ) -> nn.Module:
        parameters: Sequence[Tensor] = [p.requires_grad_() for p in model.parameters()]
        if rate:
            optimiser = torch.optim.Adam(parameters, lr=rate)
            with evaluating(model):
                for step in range(self.steps):
                    optimiser.zero_grad(set_to_none=True)
                    _loss(model, x, augment(x, seed + step), y, way).backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
        return model.requires_grad_(False)


def _loss(model: nn.Module, x: Images, varied: Images, y: Labels, way: int) -> Tensor:
    clean, moved = torch.split(in_chunks(model, torch.cat([x, varied])), len(x))
    return F.cross_entropy(cosine_logits(moved, prototypes_of(clean, y, way)), y)
