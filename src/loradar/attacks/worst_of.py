"""Several attacks, or several starts of one: for each image, keep the strongest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from loradar.attacks.base import BaseAttack
from loradar.attacks.objectives import borrowed, fooled_by, logits_of
from loradar.core.attack_specs import write_group
from loradar.core.checks import check_labels
from loradar.core.losses import cross_entropy
from loradar.core.types import Attack, Images, Labels, LabelUse, Traits


def strongest(model: nn.Module, x: Images, y: Labels, crafts: Sequence[Callable[[Images, Labels], Images]]) -> Images:
    """For each image the craft that fools the model, else the one of highest cross-entropy; in the order given.

    An image that a craft has fooled the model with is not attacked again.
    """

    def of_rows(craft: Callable[[Images, Labels], Images], rows: Tensor) -> Images:
        return craft(x[rows], y[rows])

    return worst_case_by_index(model, x, y, [partial(of_rows, craft) for craft in crafts])


def worst_case_by_index(model: nn.Module, x: Images, y: Labels, crafts: Sequence[Callable[[Tensor], Images]]) -> Images:
    """As `strongest`, for crafts that take the rows (indices into `x`) that are still to be attacked."""
    rows = torch.arange(len(x), device=x.device)
    best = crafts[0](rows)
    if len(crafts) == 1:
        return best
    best = best.clone()
    fooled, loss = _outcome(model, best, y)
    for craft in crafts[1:]:
        rows = torch.nonzero(~fooled).squeeze(1)
        if not len(rows):
            break
        x_adv = craft(rows)
        fooled_now, loss_now = _outcome(model, x_adv, y[rows])
        better = fooled_now | (loss_now > loss[rows])
        best[rows[better]] = x_adv[better]
        loss[rows[better]] = loss_now[better]
        fooled[rows] = fooled_now
    return best


@torch.no_grad()
def _outcome(model: nn.Module, x_adv: Images, y: Labels) -> tuple[Tensor, Tensor]:
    logits = logits_of(model, x_adv)
    check_labels(y, count=len(logits), classes=logits.shape[1])
    return fooled_by(logits, y), cross_entropy(logits, y)


def traits_of_parts(parts: tuple[Attack, ...]) -> Traits:
    """What holds for several attacks, each of which meets some images of a batch."""
    traits = [part.traits for part in parts]
    return Traits(
        layers=frozenset().union(*(each.layers for each in traits)),
        parts=parts,
        needs_gradients=any(each.needs_gradients for each in traits),
        independent_rows=all(each.independent_rows for each in traits),
        whole_batches=False,
        cacheable=all(each.cacheable for each in traits),
    )


@dataclass(frozen=True, kw_only=True)
class WorstOf(BaseAttack):
    """For each image the strongest of several attacks; they run in the order given, on what still resists."""

    attacks: tuple[Attack, ...]

    @property
    def spec(self) -> str:
        """`a+b`."""
        return write_group("+", [attack.spec for attack in self.attacks], {})

    @property
    def traits(self) -> Traits:
        """Those of its parts."""
        return traits_of_parts(self.attacks)

    def reseeded(self, seed: int) -> "WorstOf":
        """Other draws of every part."""
        return WorstOf(attacks=tuple(attack.reseeded(seed) for attack in self.attacks))

    def relabelled(self, label: LabelUse) -> "WorstOf":
        """Every part with the labels used so."""
        return WorstOf(attacks=tuple(attack.relabelled(label) for attack in self.attacks))

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        with borrowed(model, x, y) as (x, y):
            return strongest(model, x, y, [partial(attack, model) for attack in self.attacks])
