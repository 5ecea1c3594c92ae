"""Normalisation as a layer of the model, so that everything outside it, attacks above all, lives in [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.modules import Wrapper, take_logits
from loradar.core.types import Images, Logits


class Normalized(Wrapper):
    """`wrapped((x - mean) / std)`: from images in [0, 1] to logits.

    Logits that `wrapped` gives in a dictionary or a named tuple are taken out of it (see `take_logits`).

    `mean` and `std` are one number per channel, in units of [0, 1] pixels, kept as buffers (1, channels, 1, 1). With
    `skip_identity`, a mean of 0 and a std of 1 are no part of its state, so that it is the same base as `wrapped`. Raises
    BadConfigError where they differ in length, or where a `std` is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, wrapped: nn.Module, mean: Sequence[float], std: Sequence[float], *, skip_identity: bool = False
    ) -> None:
        super().__init__()
        check_normalisation(mean, std)
        self.wrapped = wrapped
        is_kept = not skip_identity or any(mean) or any(s != 1 for s in std)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=is_kept)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=is_kept)

    def forward(self, x: Images) -> Logits:
        return take_logits(self.wrapped((x - self.mean) / self.std))


def check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int | None = None) -> None:
    """Raises BadConfigError unless both hold one finite number per channel, and every `std` is above 0."""
    expected = len(mean) if channels is None else channels
    if not mean or len(mean) != expected or len(std) != expected:
        raise BadConfigError(f"mean has {len(mean)} and std {len(std)} numbers; expected one per channel: {expected}")
    if not all(0 < s < float("inf") for s in std) or not all(abs(m) < float("inf") for m in mean):
        raise BadConfigError(f"mean {tuple(mean)} and std {tuple(std)}: expected finite numbers and every std above 0")
