"""A base: a frozen classifier, and everything that is known about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from loradar.core.copying import copy_model
from loradar.core.errors import BadConfigError, BadImagesError
from loradar.core.modules import check_logits
from loradar.core.probing import find_input
from loradar.core.randomness import generator
from loradar.core.types import Images
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
        if not all(type(side) is int and side > 0 for side in self.input_size):
            raise BadConfigError(f"input_size is {list(self.input_size)}; expected channels, height and width above 0")
        if not all(isinstance(name, str) for name in self.classes or ()):
            raise BadConfigError("a class name is no text; expected the name of each class")
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise BadConfigError(f"{len(self.classes)} class names for {self.num_classes} classes; expected as many")

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
        input_size: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> "Base":
        """Makes a base of a model in memory, which shares its parameters and leaves it as it is.

        Args:
            model: From images in [0, 1] to logits; with `mean` and `std` (one number per channel, in units of [0, 1]
                pixels), from normalised images.
            classes: The names of the classes, in the order of the logits.
            input_size: (channels, height, width). Usual sizes are tried where it is not said.
            num_classes: How many logits there are; counted where it is not said.

        Raises:
            BadConfigError: The model gives no logits, does not take images of `input_size`, or has another number of
                classes than said.
        """
        if (mean is None) != (std is None):
            raise BadConfigError("mean and std belong together; give both, or neither for images in [0, 1]")
        copied = copy_model(model, share=True).eval()
        x = find_input(copied) if input_size is None else _noise(copied, input_size)
        if x is None:
            raise BadConfigError(
                f"{type(model).__name__} takes no images of a usual size; say input_size=(channels, height, width)"
            )
        found, channels = _count_classes(copied, x), x.shape[1]
        if num_classes is not None and num_classes != found:
            raise BadConfigError(
                f"{type(model).__name__} gives {found} logits, num_classes is {num_classes}; expected as many"
            )
        if not isinstance(copied, Normalized) or mean is not None:
            mean, std = mean or [0.0] * channels, std or [1.0] * channels
            check_normalisation(mean, std, channels)
            copied = Normalized(copied, mean, std, skip_identity=True).to(x.device).eval()
        names = None if classes is None else tuple(classes)
        description = {
            "model": type(model).__name__,
            "num_classes": found,
            "input_size": list(x.shape[1:]),
            "mean": copied.mean.flatten().tolist(),
            "std": copied.std.flatten().tolist(),
            "classes": None if names is None else list(names),
        }
        size = (int(channels), int(x.shape[2]), int(x.shape[3]))
        return cls(model=copied, num_classes=found, input_size=size, classes=names, description=description)

    def check_size(self, x: Images) -> None:
        """Raises BadImagesError, with both shapes, unless `x` is (batch, *input_size)."""
        if tuple(x.shape[1:]) != self.input_size:
            raise BadImagesError(
                f"images have shape {tuple(x.shape)}, the model takes (batch, {', '.join(map(str, self.input_size))}); resize "
                "the images, or say another input_size of the model"
            )


def _noise(model: nn.Module, size: Sequence[int]) -> Images:
    x = torch.rand(2, *size, generator=generator(0))
    weights = next((p for p in model.parameters() if p.is_floating_point()), None)
    return x if weights is None else x.to(weights)


def _count_classes(model: nn.Module, x: Images) -> int:
    try:
        with torch.no_grad():
            output = model(x)
    except BadConfigError:
        raise
    except Exception as error:  # a wrong size fails anywhere within a user's forward
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadConfigError(
            f"{type(model).__name__} does not take images of shape {tuple(x.shape)}: {reason}; say its "
            "input_size=(channels, height, width)"
        ) from error
    return check_logits(output, len(x)).shape[1]


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
        **({} if num_classes else {"head": "none"}),
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
