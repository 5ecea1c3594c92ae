"""FIA, the feature importance-aware attack: breaks what an inner layer relies on, so that it transfers."""

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.attacks.ascend import Schedule, ascend
from loradar.attacks.base import NormAttack
from loradar.attacks.objectives import borrowed, images_at_once, logits_of, without_gaps
from loradar.attacks.registry import register
from loradar.attacks.settings import MOMENTUM, Interval, count, eps_of, pixels, seed_setting, setting
from loradar.core.checks import check_labels
from loradar.core.errors import BadTargetError
from loradar.core.modules import capture, output_of
from loradar.core.randomness import mix, uniform
from loradar.core.types import Images, Labels, LabelUse, Traits


@register("fia")
@dataclass(frozen=True, kw_only=True)
class FIA(NormAttack):
    """Wang et al., "Feature Importance-aware Transferable Adversarial Attacks", ICCV 2021, sections 3.2 and 3.3.

    1. `n_masks` times, drop each channel value of each pixel with probability `drop_prob`, before any normalisation, and sum
       the gradient of the label's logit with respect to the output of `layer` (a name in the innermost backbone, or `auto`; 0.3
       suits normally trained models, 0.1 defended ones). Importance is minus the sum over its L2 norm, per image.
    2. From the image itself, ascend the sum of importance times features, with `momentum`, in the ball. The `schedule` of
       the step is ours, off by default (see `ascend`).

    `label` says whose logit: the `true` one (what is passed as `y`), a `given` one (also `y`, not the true one: told
    apart only for the report), what the model `predicted` on `x`, or a `random` one, drawn per image from all classes.
    The true label can leak through the perturbation into whatever is trained on it, and so can the predicted one where
    the model is nearly always right; a random one tells nothing.
    """

    eps: float = eps_of(linf=16 / 255, l2=0.5)
    layer: str = setting(
        "auto", "Name of the layer whose output is attacked; auto: one about halfway, `layer2` in a ResNet."
    )
    n_masks: int = count(30, "Random masks that the importance is averaged over.")
    drop_prob: float = setting(
        0.3, "Probability that a mask drops a pixel value.", limits=Interval(low=0, high=1, below=True)
    )
    steps: int = count(10, "Gradient steps.")
    step_size: float = pixels(1.6 / 255, "Size of a step.")
    schedule: Schedule = setting("constant", "Of the step: the same throughout, or falling in equal parts.")
    momentum: float = setting(1.0, "Share of the running direction that each step keeps.", limits=MOMENTUM)
    label: LabelUse = setting("true", "Whose logit the importance is the gradient of.")
    seed: int = seed_setting()

    @property
    def traits(self) -> Traits:
        """It reads one layer."""
        return Traits(layers=frozenset({self.layer}), region=self.ball)

    def relabelled(self, label: LabelUse) -> "FIA":
        """The same setting for another label's logit."""
        return dataclasses.replace(self, label=label)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball around `x`.

        Raises BadImagesError, and BadTargetError where `layer` does not exist or does not give one tensor.
        """
        with borrowed(model, x, y) as (x, y):
            if self.label in ("predicted", "random"):
                with torch.no_grad():
                    logits = logits_of(model, x)
                drawn = (uniform(x, mix(self.seed, -1), (1,))[:, 0] * logits.shape[1]).long()
                y = logits.argmax(1) if self.label == "predicted" else drawn.clamp_max(logits.shape[1] - 1)
            importance = self._importance(model, x, y)

            def objective(x_adv: Images) -> Tensor:
                features = _feature_map(output_of(model, self.layer, x_adv), self.layer, x_adv)
                return (importance * features).flatten(1).sum(1)

            return ascend(
                objective,
                x,
                x,
                ball=self.ball,
                step_size=self.step_size,
                steps=self.steps,
                momentum=self.momentum,
                schedule=self.schedule,
            )

    def _importance(self, model: nn.Module, x: Images, y: Labels) -> Tensor:
        """Of the features' shape, of L2 norm 1 per image, or 0 where the gradient is 0."""
        at_once = max(1, images_at_once(x) // len(x))
        total = torch.zeros((), device=x.device)
        for first in range(0, self.n_masks, at_once):
            drawn = range(first, min(first + at_once, self.n_masks))
            # a stream for each mask and image: what is drawn does not depend on how many pass at once
            keep = torch.stack(
                [uniform(x, mix(self.seed, mask), tuple(x.shape[1:])) >= self.drop_prob for mask in drawn]
            )
            grad = _label_gradient(model, self.layer, (x * keep).flatten(0, 1), y.repeat(len(drawn)))
            # a mask under which an image has no finite gradient says nothing of it; the others still do
            total = total + without_gaps(grad)[0].view(len(drawn), len(x), *grad.shape[1:]).sum(0)
        return -F.normalize(total.flatten(1), eps=torch.finfo(total.dtype).tiny).view_as(total)


def _label_gradient(model: nn.Module, layer: str, x: Images, y: Labels) -> Tensor:
    """The gradient of the logit of `y` with respect to the output of `layer`, of that output's shape."""
    with capture(model, layer) as output:
        logits = logits_of(model, x.requires_grad_())
    features = _feature_map(getattr(output, "value", None), layer, x)
    check_labels(y, count=len(x), classes=logits.shape[1])
    label_logits = logits.gather(1, y[:, None]).sum()
    (grad,) = torch.autograd.grad(label_logits, features, materialize_grads=True)
    return grad.float() if grad.dtype != torch.float64 else grad


def _feature_map(output: object, layer: str, x: Images) -> Tensor:
    if not isinstance(output, Tensor) or len(output) != len(x) or not output.requires_grad:
        raise BadTargetError(f"layer {layer!r} gave no one tensor per batch; choose one whose output is a feature map")
    return output
