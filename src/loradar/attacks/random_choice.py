"""One of several attacks for each image: training on it is training on their average."""

from dataclasses import dataclass

import torch
from torch import nn

from loradar.attacks.objectives import borrowed
from loradar.core.errors import BadConfigError
from loradar.core.randomness import mix, uniform
from loradar.core.types import Attack, Images, Labels


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """Each image gets one of `attacks`, drawn with equal chances from the seed and the image.

    Drawn anew at every step, the expected loss is the mean over the attacks: the AVG of Tramer and Boneh, "Adversarial
    Training and Robustness for Multiple Perturbations", NeurIPS 2019, section 2.4, at the cost of one attack.
    """

    attacks: tuple[Attack, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.attacks:
            raise BadConfigError("OneOf got no attacks; expected one or more")

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
