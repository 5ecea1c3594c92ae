"""Opening a base on a device."""

import dataclasses

import torch

from loradar.core.errors import BadConfigError
from loradar.core.torchrun import launched
from loradar.models.base import Base
from loradar.models.loading import load_base


def open_base(spec: str, device: str) -> Base:
    """The base, frozen, on its device, in the memory format that convolutions are fastest in; its values untouched."""
    base = load_base(spec)
    model = base.model.to(pick_device(device)).to(memory_format=torch.channels_last)
    return dataclasses.replace(base, model=model.eval().requires_grad_(False))


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one; of several processes on a machine, each takes the GPU of its own number.

    Raises BadConfigError for a device that is not there.
    """
    if name in ("auto", "cuda") and launched().size > 1 and torch.cuda.is_available():
        name = f"cuda:{launched().local_rank}"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadConfigError(f"device {name!r} cannot be used here; expected cpu, cuda or mps, or auto") from error
    return device
