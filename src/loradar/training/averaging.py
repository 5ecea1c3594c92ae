"""The mean of the weights along a training, which answers better than the last of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

_PREFIX = "average."


class WeightAverage:
    """An exponential moving average of tensors that training moves.

    Izmailov et al., "Averaging Weights Leads to Wider Optima", UAI 2018; of adversarial training, Gowal et al.,
    "Uncovering the Limits of Adversarial Training", 2020, section 4.1. In the first steps the mean is over fewer, else
    the start would stay in it: the decay is (1 + n) / (10 + n) until it reaches `decay`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], *, decay: float) -> None:
        self._decay = decay
        self._live = dict(tensors)
        self._mean = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._count = torch.zeros(1, dtype=torch.int64)

    @property
    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        return {_PREFIX + name: tensor for name, tensor in self._mean.items()} | {f"{_PREFIX}count": self._count}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights of the moment."""
        self._count += 1
        count = int(self._count)
        rate = 1 - min(self._decay, (1 + count) / (10 + count))
        for name, mean in self._mean.items():
            live = self._live[name].detach()
            if mean.is_floating_point():
                mean.lerp_(live, rate)
            else:  # the number of batches seen
                mean.copy_(live)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The mean in the place of the weights for the time of the block; then the very bits that were there before."""
        kept = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self.apply()
        try:
            yield
        finally:
            self._write(kept)

    def apply(self) -> None:
        """Puts the mean in the place of the weights for good."""
        self._write(self._mean)

    def restart(self) -> None:
        """Begins anew at the weights of the moment."""
        self._count.zero_()
        for name, tensor in self._live.items():
            self._mean[name].copy_(tensor.detach())

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, tensor in self._live.items():
            tensor.detach().copy_(values[name])
