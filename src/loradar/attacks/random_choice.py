"""One of several attacks for each image: training on it is training on the average of their losses."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import nn

from loradar.attacks.base import BaseAttack
from loradar.attacks.objectives import borrowed
from loradar.attacks.settings import seed_setting
from loradar.attacks.worst_of import traits_of_parts
from loradar.core.attack_specs import write_group
from loradar.core.randomness import mix, uniform
from loradar.core.types import Attack, Images, Labels, LabelUse, Traits


@dataclass(frozen=True, kw_only=True)
class RandomChoice(BaseAttack):
    """Each image gets one of `attacks`, drawn with equal chances from the seed and the image.

    Drawn anew at every step, the expected loss is the mean over the attacks: the AVG of Tramer and Boneh, "Adversarial
    Training and Robustness for Multiple Perturbations", NeurIPS 2019, section 2.4, at the cost of one attack.
    """

    attacks: tuple[Attack, ...]
    seed: int = seed_setting()

    @property
    def spec(self) -> str:
        """`a|b`, or `(a|b):seed=1`."""
        options = {"seed": str(self.seed)} if self.seed else {}
        return write_group("|", [attack.spec for attack in self.attacks], options)

    @property
    def traits(self) -> Traits:
        """Those of its parts."""
        return traits_of_parts(self.attacks)

    def reseeded(self, seed: int) -> "RandomChoice":
        """Other draws, of the parts too."""
        parts = tuple(attack.reseeded(seed) for attack in self.attacks)
        return dataclasses.replace(self, attacks=parts, seed=mix(self.seed, seed))

    def relabelled(self, label: LabelUse) -> "RandomChoice":
        """Every part with the labels used so."""
        return dataclasses.replace(self, attacks=tuple(attack.relabelled(label) for attack in self.attacks))

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1]. Raises BadImagesError."""
        with borrowed(model, x, y) as (x, y):
            drawn = (uniform(x, mix(self.seed, 1), ()) * len(self.attacks)).long().clamp_max(len(self.attacks) - 1)
            x_adv = x.clone()
            for index, attack in enumerate(self.attacks):
                rows = torch.nonzero(drawn == index).squeeze(1)
                if len(rows):
                    x_adv[rows] = attack(model, x[rows], y[rows])
            return x_adv
