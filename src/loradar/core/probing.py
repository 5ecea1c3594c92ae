"""Images that a model of unknown input takes: found by trying, on a copy of it."""

from collections.abc import Iterator

import torch
from torch import nn

from loradar.core.copying import copy_model
from loradar.core.randomness import generator
from loradar.core.types import Images

_SIDES = (32, 28, 64, 224, 16, 8, 96, 128, 112, 48, 24, 160, 192, 256, 299, 384)


def find_input(model: nn.Module) -> Images | None:
    """Returns two images of noise, (2, channels, height, width) in [0, 1], that `model` takes; None where no usual size does.

    They have the dtype and the device of its parameters. What the model says of itself (an image size, timm's
    `default_cfg`) is tried first. `model` is not touched: a shared copy in eval mode is asked.
    """
    trial = copy_model(model, share=True).eval()
    weights = next((p for p in trial.parameters() if p.is_floating_point()), None)
    for shape in _shapes(trial):
        x = torch.rand(2, *shape, generator=generator(0))
        x = x if weights is None else x.to(weights)
        try:
            with torch.no_grad():
                trial(x)
        except Exception:  # a wrong size fails anywhere within a user's forward
            continue
        return x
    return None


def _shapes(model: nn.Module) -> Iterator[tuple[int, int, int]]:
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)), None)
    channels = first.in_channels if isinstance(first, nn.Conv2d) else 3
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):
            side = getattr(holder, "img_size", None) or getattr(holder, "image_size", None)
            if isinstance(side, int) or (isinstance(side, tuple | list) and len(side) == 2):
                height, width = (side, side) if isinstance(side, int) else side
                yield channels, height, width
    config = getattr(model, "default_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        yield tuple(config["input_size"])
    if isinstance(first, nn.Linear):
        for depth in (3, 1):
            side = round((first.in_features / depth) ** 0.5)
            if depth * side * side == first.in_features:
                yield depth, side, side
    for side in _SIDES:
        yield channels, side, side
