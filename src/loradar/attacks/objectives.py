"""Shared helpers of the attacks: input validation, an eval-mode context, loss and gradient functions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from loradar.core.checks import check_images, check_labels
from loradar.core.errors import BadConfigError
from loradar.core.losses import cross_entropy, margin
from loradar.core.modules import answers_of, check_logits, evaluating
from loradar.core.types import Images, Labels, Logits

# images in one forward pass, by their pixels (height * width): 64 images of 32 x 32 stay in a processor's cache
_PIXELS_AT_ONCE = {"cpu": 1 << 16}
_PIXELS_AT_ONCE_ELSEWHERE = 1 << 19

Objective: TypeAlias = Callable[[Images], Tensor]
"""Images to (batch,) values, each of its own image alone: what an attack ascends."""

LogitLoss: TypeAlias = Callable[[Logits, Labels], Tensor]
"""(batch,) values of logits and labels."""

Loss: TypeAlias = Literal["cross_entropy", "margin", "kl"]
LabelLoss: TypeAlias = Literal["cross_entropy", "margin"]
LOSSES: dict[str, LogitLoss] = {"cross_entropy": cross_entropy, "margin": margin}
Keep: TypeAlias = Literal["last", "best"]
"""Which iterate an attack gives back: the last, or for each image the best (see `BestIterate`)."""


@contextmanager
def borrowed(model: nn.Module, x: Images, y: Labels) -> Iterator[tuple[Images, Labels]]:
    """The model in eval mode with gradients on, for the time of the block; and `x`, `y` checked, free of history.

    Works inside `torch.no_grad` and `torch.inference_mode`. Raises BadImagesError.
    """
    check_images(x)
    check_labels(y, count=len(x))
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model):
        # tensors made in inference mode can never join a graph, their copies can
        x = x.clone() if x.is_inference() else x.detach()
        yield x, y.to(device=x.device, dtype=torch.int64, copy=y.is_inference())


def images_at_once(x: Images) -> int:
    """How many images like those of `x` to put through the model together, where an attack has many."""
    pixels = _PIXELS_AT_ONCE.get(x.device.type, _PIXELS_AT_ONCE_ELSEWHERE)
    return max(1, pixels // x[0, 0].numel())


def logits_of(model: nn.Module, x: Images) -> Logits:
    """(batch, classes), in single precision at least: half precision rounds small losses to 0."""
    logits = check_logits(model(x), len(x))
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def loss_of(model: nn.Module, y: Labels, loss: LogitLoss) -> Objective:
    """`loss` of the model's logits and `y`. Raises BadImagesError for a label that the model has no class for."""
    checked = False

    def objective(x_adv: Images) -> Tensor:
        nonlocal checked
        logits = logits_of(model, x_adv)
        if not checked:  # once: it waits for the device
            check_labels(y, count=len(logits), classes=logits.shape[1])
            checked = True
        return loss(logits, y)

    return objective


def divergence_from(model: nn.Module, x: Images) -> LogitLoss:
    """KL(clean || attacked) of the model's answers, in nats; those at `x` are taken once. The labels have no say.

    At `x` itself it has a minimum, and so exactly no gradient: whoever ascends it must start elsewhere.
    """
    with torch.no_grad():
        clean = logits_of(model, x).log_softmax(1)

    def divergence(logits: Logits, y: Labels) -> Tensor:  # noqa: ARG001
        return (clean.exp() * (clean - logits.log_softmax(1))).sum(1)

    return divergence


def objective_of(model: nn.Module, x: Images, y: Labels, loss: Loss, keep: Keep = "last") -> Objective:
    """What is ascended: a loss of the labels, or for `kl` the divergence from the clean answers.

    With `keep="best"` it is a `BestIterate`, which `kept` gives the outcome of.
    """
    of_logits = divergence_from(model, x) if loss == "kl" else LOSSES[loss]
    return BestIterate(model, y, of_logits) if keep == "best" else loss_of(model, y, of_logits)


class BestIterate:
    """An objective that keeps, for each image, the best of the iterates that it was asked about.

    An iterate that fools the model comes before one that does not; then the higher value counts. Every call is about
    the same images in the same order. Raises BadImagesError as `loss_of` does.
    """

    def __init__(self, model: nn.Module, y: Labels, loss: LogitLoss) -> None:
        self._model, self._y, self._loss = model, y, loss
        self._best: tuple[Images, Tensor, Tensor] | None = None

    def __call__(self, x_adv: Images) -> Tensor:
        logits = logits_of(self._model, x_adv)
        if self._best is None:  # once: it waits for the device
            check_labels(self._y, count=len(logits), classes=logits.shape[1])
        values = self._loss(logits, self._y)
        self._offer(x_adv.detach(), values.detach(), fooled_by(logits.detach(), self._y))
        return values

    @property
    def images(self) -> Images:
        """The best iterates so far. Raises RuntimeError before the first call."""
        if self._best is None:
            raise RuntimeError("no iterate was offered")
        return self._best[0]

    def _offer(self, x_adv: Images, values: Tensor, fooled: Tensor) -> None:
        if self._best is None:
            self._best = x_adv, values, fooled
            return
        images, best, fooled_before = self._best
        better = (fooled & ~fooled_before) | ((fooled == fooled_before) & (values > best))
        self._best = (
            torch.where(better[:, None, None, None], x_adv, images),
            torch.where(better, values, best),
            fooled | fooled_before,
        )


def kept(objective: Objective, last: Images) -> Images:
    """What an attack gives back that ended at `last`: that, or the best iterate where its objective keeps one."""
    if not isinstance(objective, BestIterate):
        return last
    with torch.no_grad():
        objective(last)
    return objective.images


def fooled_by(logits: Logits, y: Labels) -> Tensor:
    """(batch,) bool: the answer is wrong. A model whose logits are not finite is wrong, whatever stands first."""
    return answers_of(logits) != y


def check_divergence_starts_at_random(loss: str, *, random_start: bool) -> None:
    """Raises BadConfigError for the KL divergence from a zero start, where its gradient is exactly zero."""
    if loss == "kl" and not random_start:
        raise BadConfigError(
            "loss 'kl' has no gradient at the clean image, so a zero start would never leave it; set random_start=true, "
            "or loss=cross_entropy"
        )


def gradient(objective: Objective, x: Images) -> Tensor:
    """The gradient of `objective` at `x`, of the shape of `x`, 0 where it is not finite. Parameters are not asked for theirs.

    Raises BadConfigError where the objective has no gradient (a model that runs under `torch.no_grad`, say).
    """
    return gradient_and_gaps(objective, x)[0]


def gradient_and_gaps(objective: Objective, x: Images) -> tuple[Tensor, Tensor]:
    """As `gradient`, and (batch,) bool: the images for which the model's own held NaN or infinity."""
    _, grad, gaps = valued_gradient(objective, x)
    return grad, gaps


def valued_gradient(objective: Objective, x: Images) -> tuple[Tensor, Tensor, Tensor]:
    """The (batch,) values of `objective` at `x`, and what `gradient_and_gaps` gives, of one pass."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        values = objective(leaf)
        if not values.requires_grad:
            raise BadConfigError(
                "the model's output has no gradient with respect to its images; attack a differentiable model, or use "
                "AutoAttack(attacks=('square',)), which needs none"
            )
        (grad,) = torch.autograd.grad(values.sum(), leaf, materialize_grads=True)
    return values.detach(), *without_gaps(grad.detach())


def without_gaps(grad: Tensor) -> tuple[Tensor, Tensor]:
    """`grad` with 0 for NaN and infinity, and (batch,) bool: where there were any."""
    finite = grad.isfinite()
    return torch.where(finite, grad, 0.0), ~finite.flatten(1).all(1)


def detour(x: Tensor) -> Tensor:
    """A fixed pattern of both signs, of the shape of `x`: a way on where the model gives no finite gradient to follow."""
    turns = torch.arange(x[0].numel(), dtype=torch.float64, device="cpu") * 0.6180339887498949
    return (turns.frac() - 0.5).view(x.shape[1:]).to(x).expand_as(x)


def without_gradient(model: nn.Module, x: Images, y: Labels, loss: LabelLoss = "cross_entropy") -> Tensor:
    """(batch,) bool: the images at which the loss has no usable gradient, NaN or infinite or 0 all over.

    An attack that follows it learns nothing there, so such images count as right without having been tried. Raises
    BadImagesError.
    """
    with borrowed(model, x, y) as (x, y):
        grad, gaps = gradient_and_gaps(loss_of(model, y, LOSSES[loss]), x)
        return gaps | ~grad.flatten(1).any(1)
