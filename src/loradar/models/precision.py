"""Half the work where the device can: bfloat16 inside the model, float32 around it."""

from typing import Literal, TypeAlias

import torch
from torch import nn

from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.modules import Wrapper, take_logits
from loradar.core.types import Images, Logits

Precision: TypeAlias = Literal["auto", "fp32", "bf16"]


class Autocast(Wrapper):
    """`wrapped` under autocast to `dtype`; takes images of any float type and memory layout, returns float32 logits.

    Images are brought to channels-last, which is how convolutions of half precision are fast. Parameters stay float32, so
    that gradients with respect to images, and to adapters, arrive in the types they have.
    """

    def __init__(self, wrapped: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.dtype = dtype

    def forward(self, x: Images) -> Logits:
        # autocast leaves float64 alone, and float64 images would then meet half-precision weights
        x = x.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, self.dtype):
            logits = take_logits(self.wrapped(x))
        return logits.float()


def resolve_precision(precision: Precision, device: torch.device | str) -> torch.dtype:
    """The type to compute in: bfloat16 or float32. `auto` takes bfloat16 where the device multiplies it in hardware.

    Raises BadConfigError for another word.
    """
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if precision != "auto":
        raise BadConfigError(
            f"there is no precision {precision!r}; {did_you_mean(precision, ('auto', 'fp32', 'bf16'))}"
        )
    return torch.bfloat16 if _multiplies_bfloat16(torch.device(device)) else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        # below compute capability 8 bfloat16 is emulated: right, but slower than float32
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(bool(test()) for test in tests if test is not None)
    return False


def with_autocast(model: nn.Module, precision: Precision = "auto") -> nn.Module:
    """`model` itself, or `model` under bfloat16 autocast; decided for the device of its parameters."""
    parameter = next(model.parameters(), None)
    dtype = resolve_precision(precision, "cpu" if parameter is None else parameter.device)
    return model if dtype == torch.float32 else Autocast(model, dtype)
