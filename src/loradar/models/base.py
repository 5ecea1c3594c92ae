"""A base: a frozen classifier, and everything that is known about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from loradar.core.errors import BadConfigError
from loradar.models.backbones import build, canonical, default_input_size, default_normalisation
from loradar.models.normalized import Normalized, check_normalisation


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """`model` maps images in [0, 1], (batch, *input_size), to logits (batch, num_classes); eval mode, float32.

    `classes` are the names of the classes in the order of the logits, where they are known. `description` is for
    reports and can be written as JSON.
    """

    model: Normalized
    num_classes: int
    input_size: tuple[int, int, int]
    classes: tuple[str, ...] | None = None
    description: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise BadConfigError(f"{len(self.classes)} class names for {self.num_classes} classes; expected as many")


def wrap(module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> Normalized:
    """Any classifier of normalised images, as one of images in [0, 1]; its mode is left as it is."""
    return Normalized(module, mean, std)


def make_base(
    module: nn.Module,
    *,
    architecture: str,
    num_classes: int,
    input_size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    options: dict[str, Any] | None = None,
    notes: dict[str, Any] | None = None,
) -> Base:
    """A base of `module`, in eval mode; what is not said is what goes with the architecture; `notes` go to reports."""
    name, options = canonical(architecture), dict(options or {})
    channels, height, width = input_size or default_input_size(name, **options)
    own_mean, own_std = default_normalisation(name)
    mean, std = tuple(mean or own_mean), tuple(std or own_std)
    check_normalisation(mean, std, channels)
    description = {
        **(notes or {}),
        "architecture": name,
        "num_classes": num_classes,
        "input_size": [channels, height, width],
        "mean": list(mean),
        "std": list(std),
        "classes": None if classes is None else list(classes),
    }
    return Base(
        model=wrap(module, mean, std).eval(),
        num_classes=num_classes,
        input_size=(channels, height, width),
        classes=None if classes is None else tuple(classes),
        description=description | ({"options": options} if options else {}),
    )


def new_base(
    architecture: str,
    *,
    num_classes: int,
    classes: Sequence[str] | None = None,
    input_size: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    **options: Any,
) -> Base:
    """A base with fresh weights, to be pretrained. Raises BadConfigError as `build` does."""
    return make_base(
        build(architecture, num_classes=num_classes, seed=seed, **options),
        architecture=architecture,
        num_classes=num_classes,
        input_size=input_size,
        mean=mean,
        std=std,
        classes=classes,
        options=options,
        notes={"weights": f"fresh, seed {seed}"},
    )
