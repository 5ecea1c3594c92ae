"""Pictures for people: an attacked image, before, after, and the difference amplified."""

import base64
import io
from dataclasses import dataclass

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from loradar.core.checks import check_images
from loradar.core.types import Threat

LARGEST = 128
"""Pixels; a larger image is shrunk to this, so that a page stays small: it is shown no larger."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Three PNG files in base64: the clean image, the attacked one, and their difference times `gain` around grey.

    `label` is the true class; `before` and `after` are the answers of `model` to the clean and to the attacked image,
    `base_answer` is that of the base to the attacked image ("" where it is not known).
    """

    model: str
    attack: str
    threat: Threat
    label: str
    before: str
    after: str
    gain: float
    clean: str
    attacked: str
    difference: str
    base_answer: str = ""

    @classmethod
    def of(
        cls,
        x: Tensor,
        x_adv: Tensor,
        *,
        model: str,
        attack: str,
        threat: Threat,
        label: str,
        before: str,
        after: str,
        base_answer: str = "",
    ) -> "Picture":
        """Draws one image (channels, height, width) and its attacked form, both in [0, 1]. Raises BadImagesError."""
        check_images(x[None])
        check_images(x_adv[None])
        delta = x_adv.cpu().float() - x.cpu().float()
        gain = min(64.0, float(0.5 / delta.abs().max().clamp_min(1e-6)))
        return cls(
            model=model,
            attack=attack,
            threat=threat,
            label=label,
            before=before,
            after=after,
            base_answer=base_answer,
            gain=gain,
            clean=png(x),
            attacked=png(x_adv),
            difference=png(0.5 + delta * gain),
        )


def png(image: Tensor) -> str:
    """Returns one image (channels, height, width) in [0, 1] as a PNG file in base64, shrunk to LARGEST."""
    shown = image.detach().cpu().float().clamp(0, 1)
    if max(shown.shape[1:]) > LARGEST:
        scale = LARGEST / max(shown.shape[1:])
        size = [max(1, round(side * scale)) for side in shown.shape[1:]]
        shown = F.interpolate(shown[None], size=size, mode="area")[0]
    channels = shown.expand(3, -1, -1) if len(shown) == 1 else shown[:3]
    array = (channels * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
