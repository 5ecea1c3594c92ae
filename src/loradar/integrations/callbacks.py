"""Callbacks that log robust accuracy while another library trains: the Trainer of transformers, and Lightning."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from loradar.api import as_attacks
from loradar.core.checks import check_images, check_labels
from loradar.core.errors import BadConfigError
from loradar.core.randomness import seeded_rng
from loradar.core.types import Attack, Images, Labels
from loradar.evaluation import correct, device_of, run_attack
from loradar.models import Normalized


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measure:
    """The share of `x` that a model still answers rightly under each attack, crafted on that model (adaptive)."""

    x: Images
    y: Labels
    attacks: Mapping[str, Attack]
    mean: Sequence[float] | None
    std: Sequence[float] | None
    batch_size: int

    def __post_init__(self) -> None:
        check_images(self.x)
        check_labels(self.y, count=len(self.x))
        if (self.mean is None) != (self.std is None):
            raise BadConfigError("mean and std belong together; give both, or neither for images in [0, 1]")

    def __call__(self, model: nn.Module, prefix: str) -> dict[str, float]:
        """`PREFIXNAME` and `PREFIXNAME_n` for each attack. The model and the global generators are as before."""
        if self.mean is not None and self.std is not None:
            model = Normalized(model, self.mean, self.std).to(device_of(model))
        values: dict[str, float] = {}
        for name, attack in self.attacks.items():
            with seeded_rng(0):  # a model may draw, also in eval mode
                x_adv = run_attack(attack, model, self.x, self.y, batch_size=self.batch_size)
                right = int(correct(model, x_adv, self.y, batch_size=self.batch_size).sum())
            values |= {f"{prefix}{name}": right / len(self.y), f"{prefix}{name}_n": float(len(self.y))}
        return values


def trainer_callback(
    trainer: Any,
    x: Images,
    y: Labels,
    *,
    attacks: Mapping[str, Attack | str] | Iterable[Attack | str] = "pgd",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 128,
) -> Any:
    """Makes a callback that logs adaptive robust accuracy at each evaluation of a `transformers.Trainer`.

    Args:
        trainer: The trainer, which the callback is added to: `trainer.add_callback(trainer_callback(trainer, x, y))`.
        x: A few images (n, channels, height, width) in [0, 1], the same at each evaluation.
        y: Their labels, (n,).
        attacks: An attack or its spec, several, or several by name.
        mean: With `std`, one number per channel, for a model that takes normalised images.
        std: See `mean`.
        batch_size: Images that are attacked together.

    It logs `eval_robust_pgd`, a share of `eval_robust_pgd_n` images, and adds both to the evaluation's metrics, so that
    `metric_for_best_model="eval_robust_pgd"` works. Weights, modes, gradients and random states are left as they are.
    Raises BadConfigError, BadImagesError.
    """
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise BadConfigError("trainer_callback needs the package transformers: pip install transformers") from error
    measure = _Measure(x=x, y=y, attacks=as_attacks(attacks), mean=mean, std=std, batch_size=batch_size)

    class RobustAccuracyCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **rest: Any) -> None:  # noqa: ARG002
            values = measure(rest["model"], "eval_robust_")
            if metrics is not None:
                metrics.update(values)
            trainer.log(values)

    return RobustAccuracyCallback()


def lightning_callback(
    x: Images,
    y: Labels,
    *,
    attacks: Mapping[str, Attack | str] | Iterable[Attack | str] = "pgd",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int = 128,
) -> Any:
    """Makes a callback that logs adaptive robust accuracy at each validation of a Lightning `Trainer`.

    The arguments are those of `trainer_callback`; the module's `forward` gives logits. It logs `robust_pgd`, a share of
    `robust_pgd_n` images, which `ModelCheckpoint(monitor="robust_pgd")` may follow. Nothing is measured in the
    sanity check before training. Weights, modes, gradients and random states are left as they are. Raises
    BadConfigError, BadImagesError.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        try:
            from pytorch_lightning import Callback
        except ImportError as error:
            raise BadConfigError("lightning_callback needs the package lightning: pip install lightning") from error
    measure = _Measure(x=x, y=y, attacks=as_attacks(attacks), mean=mean, std=std, batch_size=batch_size)

    class RobustAccuracyCallback(Callback):  # type: ignore[misc, unused-ignore]
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                pl_module.log_dict(measure(pl_module, "robust_"))

    return RobustAccuracyCallback()
