"""Random images and directions, for the property tests."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

# no deadline: a busy machine is no failure; the same examples in every run: neither is a draw of luck
patient = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(min_value=0, max_value=2**31)
radii = st.floats(min_value=0, max_value=2, allow_nan=False)
shapes = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(1, 5))


def images(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Uniform in [0, 1], double precision."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """Normal draws, double precision."""
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
