"""What a support says of a head made of it: every image is answered by a head that was made without it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from loradar.core.types import Labels, Logits
from loradar.fewshot.folds import calibrated, folds_of
from loradar.fewshot.heads import HeadConfig

Answer = Callable[[Tensor, Tensor], Logits]
"""(features (m, d) of held-out images, their rows (m,)) -> logits (m, way) of the heads that did not see them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Images with features (m, d) and labels (m,) that heads `answer` which have not seen them.

    `length` is the mean one of the support's features: an adapter holds a linear head, whose logits grow with the length of
    what it reads, and at `temperature` they are probabilities.
    """

    features: Tensor
    labels: Labels
    answer: Answer
    length: float

    @property
    def rows(self) -> Tensor:
        return torch.arange(len(self.labels), device=self.labels.device)

    @cached_property
    def temperature(self) -> float:
        return calibrated(_linear(self.answer(self.features, self.rows), self.features, 1 / self.length), self.labels)[
            0
        ]

    def head(self, rows: Tensor) -> nn.Module:
        """Makes the module that answers features (m, d) of the images `rows` (m,), in their order; differentiable in them."""
        return _HeldOutHead(self, rows)

    @cached_property
    def logits(self) -> Logits:
        """(m, way)"""
        with torch.no_grad():
            found: Logits = self.head(self.rows)(self.features)
        return found


class _HeldOutHead(nn.Module):
    def __init__(self, held_out: HeldOut, rows: Tensor) -> None:
        super().__init__()
        self.held_out, self.rows = held_out, rows

    def forward(self, features: Tensor) -> Logits:
        of = self.held_out
        return _linear(of.answer(features, self.rows), features, of.temperature / of.length)


def _linear(logits: Logits, features: Tensor, scale: float) -> Logits:
    """Logits of features of length 1 become those of a linear head on the features as they are."""
    length: Tensor = features.norm(dim=1, keepdim=True)
    return logits * (scale * length)


def left_out(rule: HeadConfig, features: Tensor, labels: Labels, way: int) -> HeldOut:
    """Leaves out one fold of a support at a time: features (n, d), two images or more of each class.

    The penalty of ridge stays that of all images.
    """
    folds = folds_of(labels)
    rule = dataclasses.replace(rule, penalty=rule.penalty_for(features, labels, way))
    heads = [rule(features[folds != fold], labels[folds != fold], way) for fold in range(int(folds.max()) + 1)]

    def answer(seen: Tensor, rows: Tensor) -> Logits:
        every = torch.stack([head(seen) for head in heads])
        return every[folds[rows], torch.arange(len(rows), device=rows.device)]

    return HeldOut(features=features, labels=labels, answer=answer, length=length_of(features))


def on_copies(rule: HeadConfig, features: Tensor, labels: Labels, way: int, copies: Tensor) -> HeldOut:
    """Answers altered copies of a support by the head of all of it: where a class has one image, which cannot be left out.

    `features` (n, d) are the support's, `copies` (k * n, d) those of the images in the same order, one or more times over.
    """
    head = rule(features, labels, way)
    return HeldOut(
        features=copies,
        labels=labels.repeat(len(copies) // len(labels)),
        answer=lambda seen, _: head(seen),
        length=length_of(features),
    )


def length_of(features: Tensor) -> float:
    """The mean length of features (n, d)."""
    return float(features.norm(dim=1).mean().clamp_min(1e-12))
