"""Randomness as a function of a seed and of what it is for: no global generator is read or moved.

Draws for an image depend on the seed and on the image's own pixels, so that the same image gets the same draws in
whatever batch, order or run it comes.
"""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from loradar.core.types import Images

_MASK = (1 << 63) - 1


def mix(*parts: int) -> int:
    """One seed out of several numbers, order mattering (the splitmix64 finaliser).

    >>> mix(0, 1) != mix(1, 0)
    True
    """
    state = 0
    for part in parts:
        state = (state + (part & 0xFFFFFFFFFFFFFFFF) + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state & _MASK


def generator(*parts: int) -> torch.Generator:
    """A generator on the CPU, seeded from `parts`."""
    return torch.Generator().manual_seed(mix(*parts))


def _each(x: Images, seed: int) -> Iterator[torch.Generator]:
    pixels = x.detach().to(device="cpu", dtype=torch.float32).contiguous().numpy()
    for image in pixels:
        yield generator(seed, zlib.crc32(image.tobytes()))


def uniform(x: Images, seed: int, shape: tuple[int, ...]) -> Tensor:
    """(batch, *shape) draws from [0, 1), on the device and in the dtype of `x`, a stream for each image of `x`."""
    draws = torch.stack([torch.rand(shape, generator=g) for g in _each(x, seed)])
    return draws.to(x)


def normal(x: Images, seed: int, shape: tuple[int, ...]) -> Tensor:
    """(batch, *shape) draws from N(0, 1), on the device and in the dtype of `x`, a stream for each image of `x`."""
    return torch.stack([torch.randn(shape, generator=g) for g in _each(x, seed)]).to(x)


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Seeds the global generators (of torch, numpy and Python) for a library that reads them, and puts them back afterwards."""
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
