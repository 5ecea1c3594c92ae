"""What harms a picture without meaning to: corruptions that stand in for threats nobody fitted the identifier with."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from loradar.core.randomness import normal
from loradar.core.types import Images, Labels

Kind: TypeAlias = Literal["gaussian-noise", "blur", "contrast", "pixelate"]
KINDS: tuple[Kind, ...] = ("gaussian-noise", "blur", "contrast", "pixelate")


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """Of about severity 3 of CIFAR-10-C (Hendrycks and Dietterich, 2019). Neither model nor labels are asked."""

    kind: Kind
    seed: int = 0

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:  # noqa: ARG002
        """(batch, C, H, W) in [0, 1]."""
        match self.kind:
            case "gaussian-noise":
                return (x + 0.08 * normal(x, self.seed, tuple(x.shape[1:]))).clamp(0, 1)
            case "blur":
                from torchvision.transforms.v2.functional import gaussian_blur

                blurred: torch.Tensor = gaussian_blur(x, kernel_size=[7, 7], sigma=[1.0, 1.0])
                return blurred.clamp(0, 1)
            case "contrast":
                middle = x.mean((2, 3), keepdim=True)
                return (middle + 0.4 * (x - middle)).clamp(0, 1)
            case "pixelate":
                return F.interpolate(F.avg_pool2d(x, 2, ceil_mode=True), size=x.shape[2:], mode="nearest")
