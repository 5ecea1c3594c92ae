"""Architectures by name, with fresh weights: torchvision's, timm's, and ResNets with a CIFAR stem.

Names: `resnet18` or `torchvision:resnet18` (torchvision), `timm:vit_tiny_patch16_224` (timm), `resnet18-cifar` (a
torchvision ResNet with a 3x3 stem of stride 1 and no max-pool; He et al. 2016, section 4.2, and every CIFAR ResNet-18
since; parameter names are torchvision's).
"""

from typing import Any

from torch import nn

from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.randomness import seeded_rng

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR = "-cifar"


def build(architecture: str, *, num_classes: int, seed: int = 0, **options: Any) -> nn.Module:
    """A backbone with fresh weights, from *normalised* images to logits; put it in `wrap` for images in [0, 1].

    `options` go to the constructor (timm's `img_size=32`, for one). Of timm models `num_classes=0` means no head (see
    `without_classes`). The same `seed` gives the same weights, whatever the global generator. Raises BadConfigError for a
    name that does not exist, with its near misses, and for options that the constructor refuses.
    """
    name = canonical(architecture)
    with seeded_rng(seed):
        try:
            if name.startswith("timm:"):
                return _timm(name.removeprefix("timm:"), num_classes=num_classes, **options)
            if not num_classes:
                raise ValueError("models without a head are timm's alone; expected 1 class or more")
            if name.endswith(_CIFAR):
                return _cifar(name, num_classes=num_classes, **options)
            return _torchvision(name.removeprefix("torchvision:"), num_classes=num_classes, **options)
        except (TypeError, AssertionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise BadConfigError(f"{architecture} refuses num_classes={num_classes}, {options}: {reason}") from error


def without_classes(model: nn.Module) -> nn.Module:
    """Gives the head of a timm model no rows, in place: logits (batch, 0), and features as before.

    A layer stays in the head's place for what is named by it: a few-shot task's own head. Raises BadConfigError where the
    head is not known, or is no Linear layer.
    """
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier")
    if not names:
        raise BadConfigError(f"timm does not say which layer of {type(model).__name__} is the head; give num_classes=N")
    if not getattr(model, "num_classes", 0):
        model.reset_classifier(1)  # type: ignore[operator]
    for name in (names,) if isinstance(names, str) else names:
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear):
            raise BadConfigError(
                f"the head {name} of {type(model).__name__} is a {type(layer).__name__}; give num_classes=N"
            )
        for leaf, value in list(layer.named_parameters()):
            layer.register_parameter(leaf, nn.Parameter(value.detach()[:0].clone()))
        layer.out_features = 0
    model.num_classes = 0  # type: ignore[assignment]
    return model


def is_headless(architecture: str) -> bool:
    """Whether the published weights of an architecture by its canonical name have no head, as DINOv2's and SigLIP's."""
    if not architecture.startswith("timm:"):
        return False
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(architecture.removeprefix("timm:"))
    return config is not None and config.num_classes == 0


def canonical(architecture: str) -> str:
    """The full name: `torchvision:resnet18`, `timm:resnet18` or `resnet18-cifar`.

    Raises BadConfigError for a name that does not exist, with its near misses.
    """
    family, sign, name = architecture.partition(":")
    if not sign:
        family, name = "torchvision", architecture
    if not sign and name.endswith(_CIFAR):
        known = [n + _CIFAR for n in torchvision_names() if n.startswith("resnet")]
    elif family == "torchvision":
        known = torchvision_names()
    elif family == "timm":
        known = _timm_names(name)
    else:
        raise BadConfigError(f"{architecture!r}: there is no family {family!r}; known: 'torchvision', 'timm'")
    if name not in known:
        raise BadConfigError(f"there is no architecture {architecture!r}; {did_you_mean(name, known)}")
    return name if name.endswith(_CIFAR) else f"{family}:{name}"


def default_normalisation(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation that go with a canonical name, where nobody says others.

    CIFAR-10's for a CIFAR stem, `default_cfg`'s for timm (from its release), ImageNet's for torchvision.
    """
    if architecture.endswith(_CIFAR):
        return CIFAR10_MEAN, CIFAR10_STD
    if architecture.startswith("timm:"):
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(architecture.removeprefix("timm:"))
        if config is not None:
            return tuple(config.mean), tuple(config.std)
    return IMAGENET_MEAN, IMAGENET_STD


def default_input_size(architecture: str, **options: Any) -> tuple[int, int, int]:
    """(channels, height, width) that go with a canonical name: timm's own, 32 for a CIFAR stem, else 224."""
    if architecture.endswith(_CIFAR):
        return 3, 32, 32
    channels, height, width = 3, 224, 224
    if architecture.startswith("timm:"):
        from timm.models import get_pretrained_cfg

        config = get_pretrained_cfg(architecture.removeprefix("timm:"))
        if config is not None:
            channels, height, width = config.input_size
    side = options.get("img_size", options.get("image_size"))  # timm's word, and torchvision's
    if side is not None:
        height, width = (side, side) if isinstance(side, int) else side
    return int(options.get("in_chans", channels)), int(height), int(width)


def torchvision_names() -> list[str]:
    """The classifiers that torchvision builds by name."""
    from torchvision import models

    return list(models.list_models(module=models))


def _timm_names(name: str) -> list[str]:
    import timm

    # an exact name may carry a tag (resnet18.a1_in1k), which the list of architectures leaves out
    return [name] if timm.is_model(name) else list(timm.list_models())


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    return model if options["num_classes"] else without_classes(model)


def _torchvision(name: str, **options: Any) -> nn.Module:
    from torchvision import models

    model: nn.Module = models.get_model(name, weights=None, **options)
    return model


def _cifar(name: str, **options: Any) -> nn.Module:
    model = _torchvision(name.removesuffix(_CIFAR), **options)
    stem = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as torchvision starts its own stem
    model.conv1, model.maxpool = stem, nn.Identity()
    return model
