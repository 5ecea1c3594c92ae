"""Answers, adversarial images and counted figures. A figure never travels without its n, interval, attack and seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from loradar.core.checks import check_images, check_labels
from loradar.core.errors import BadConfigError
from loradar.core.modules import answers_of, check_logits, evaluating
from loradar.core.types import Attack, Images, Labels, NullProgress, Progress, Threat
from loradar.evaluation.intervals import wilson

NO_ATTACK = "none"
"""What a clean row names as its attack."""

_NO_PROGRESS = NullProgress()


@dataclass(frozen=True, kw_only=True)
class AccuracyResult:
    """One measured figure: `correct` of `total` images, its Wilson 95 % interval, and what it was measured against.

    `attack` is the attack's spec, or "none"; `low` and `high` are shares in [0, 1]. `trained_against` is
    the spec of what the model's adapter was trained against: it tells apart the baselines of several attacks, which
    share a name. An adaptive figure with an `effort` is the worst, image by image, over the battery of that effort (see
    `loradar.evaluation.battery`); without, it counts the attack alone. Raises BadConfigError for counts that are no share.
    """

    model: str
    attack: str
    threat: Threat
    correct: int
    total: int
    low: float
    high: float
    seed: int
    trained_against: str = ""
    effort: Literal["", "quick", "standard", "full"] = ""

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total or self.total == 0:
            raise BadConfigError(
                f"row counts {self.correct} of {self.total}; expected 0 <= correct <= total, total > 0"
            )
        if not 0 <= self.low <= self.share <= self.high <= 1:
            raise BadConfigError(f"row's interval [{self.low}, {self.high}] does not hold {self.correct}/{self.total}")

    @classmethod
    def count(
        cls,
        *,
        model: str,
        attack: str,
        threat: Threat,
        correct: int,
        total: int,
        seed: int,
        trained_against: str = "",
        effort: Literal["", "quick", "standard", "full"] = "",
    ) -> "AccuracyResult":
        """A row with its interval computed.

        >>> AccuracyResult.count(model="base", attack="none", threat="clean", correct=455, total=500, seed=0).share
        0.91
        """
        low, high = wilson(correct, total)
        # rounding may leave the bound of 0 or of all images a hair on the wrong side
        low, high = max(0.0, min(low, correct / total)), min(1.0, max(high, correct / total))
        return cls(
            model=model,
            attack=attack,
            threat=threat,
            correct=correct,
            total=total,
            low=low,
            high=high,
            seed=seed,
            trained_against=trained_against,
            effort=effort,
        )

    @property
    def share(self) -> float:
        return self.correct / self.total

    @property
    def knowledge(self) -> str:
        """The threat in words, with the effort: `adaptive, standard effort`."""
        return f"{self.threat}, {self.effort} effort" if self.effort else self.threat

    @property
    def candidate(self) -> tuple[str, str]:
        """What was measured: the model's name, which baselines share, and what it was trained against."""
        return self.model, self.trained_against


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lives; the CPU for a model that has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def predict(model: nn.Module, images: Images | Iterable[Images], *, batch_size: int = 256) -> Tensor:
    """(n,) int64 answers on the CPU, from one tensor of images or from batches of them.

    The model is asked in eval mode, on its own device. Where its logits are not finite the answer is -1, which
    no label equals: a model that breaks is wrong, and the other images still count. Raises BadImagesError, and
    BadConfigError for an output that is not a row of logits for each image.
    """
    _check_batch_size(batch_size)
    batches = torch.split(images, batch_size) if isinstance(images, Tensor) else images
    device = device_of(model)
    answers = []
    with evaluating(model), torch.no_grad():
        for batch in batches:
            check_images(batch)
            logits = check_logits(model(batch.to(device)), len(batch))
            answers.append(answers_of(logits).cpu())
    return torch.cat(answers) if answers else torch.empty(0, dtype=torch.int64)


def correct(model: nn.Module, x: Images, y: Labels, *, batch_size: int = 256) -> Tensor:
    """(n,) bool on the CPU: which images `model` answers rightly. Raises BadImagesError.

    Every accuracy in the library is a count of these.
    """
    check_labels(y, count=len(x))
    return predict(model, x, batch_size=batch_size) == y.cpu()


def run_attack(
    attack: Attack,
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    batch_size: int = 128,
    progress: Progress = _NO_PROGRESS,
) -> Images:
    """The attack on `model` at every image, in batches, as float32 on the CPU; same shape as `x`.

    Raises BadImagesError for images or labels outside their contract, and for an attack that leaves [0, 1].
    """
    _check_batch_size(batch_size)
    check_labels(y, count=len(x))
    device = device_of(model)
    task = progress.task(f"craft {attack.spec}", len(x))
    crafted = []
    for batch, labels in zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True):
        check_images(batch)
        x_adv = attack(model, batch.to(device), labels.to(device)).detach().to(device="cpu", dtype=torch.float32)
        check_images(x_adv)
        crafted.append(x_adv)
        task.advance(len(batch))
    return torch.cat(crafted)


def accuracy_row(
    model: nn.Module,
    x: Images,
    y: Labels,
    *,
    name: str,
    attack: str = NO_ATTACK,
    threat: Threat = "clean",
    seed: int = 0,
    batch_size: int = 256,
) -> AccuracyResult:
    """How often `model` is right on `x`, which was crafted (or not) as `attack` and `threat` say."""
    right = int(correct(model, x, y, batch_size=batch_size).sum())
    return AccuracyResult.count(model=name, attack=attack, threat=threat, correct=right, total=len(y), seed=seed)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise BadConfigError(f"batch_size is {batch_size}; expected 1 or more")
