"""bfloat16 inside, float32 around."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from loradar.core.errors import BadConfigError
from loradar.core.modules import unwrap
from loradar.models import Autocast, Precision, resolve_precision, with_autocast


class _Spy(nn.Module):
    """A convolution that keeps what it was given and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        self.seen += [x, out]
        return out.mean((2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_inside_is_bfloat16_and_channels_last_and_outside_float32(dtype: torch.dtype) -> None:
    spy = _Spy()
    logits = Autocast(spy, torch.bfloat16)(torch.rand(2, 3, 8, 8).to(dtype))
    assert logits.dtype == torch.float32
    assert spy.seen[1].dtype == torch.bfloat16
    assert spy.seen[0].is_contiguous(memory_format=torch.channels_last)
    assert spy.conv.weight.dtype == torch.float32


def test_gradients_arrive_in_the_type_of_the_images() -> None:
    model = Autocast(_Spy(), torch.bfloat16)
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(model(x).sum(), x)
    assert grad.dtype == torch.float64
    assert grad.abs().sum() > 0


def test_the_words_resolve() -> None:
    assert resolve_precision("fp32", "cpu") == torch.float32
    assert resolve_precision("bf16", "cpu") == torch.bfloat16
    with pytest.raises(BadConfigError, match="did you mean 'bf16'"):
        resolve_precision(cast(Precision, "bf61"), "cpu")


@pytest.mark.parametrize(("hardware", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_asks_the_hardware(monkeypatch: pytest.MonkeyPatch, hardware: bool, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: hardware)
    assert resolve_precision("auto", "cpu") == dtype
    assert resolve_precision("auto", "meta") == torch.float32
    for capability, expected in (((8, 0), torch.bfloat16), ((7, 5), torch.float32)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, found=capability: found)
        assert resolve_precision("auto", "cuda") == expected


def test_quick_wraps_only_where_it_helps() -> None:
    spy = _Spy()
    assert with_autocast(spy, "fp32") is spy
    fast = with_autocast(spy, "bf16")
    assert isinstance(fast, Autocast)
    assert unwrap(fast) is spy
    assert isinstance(with_autocast(nn.Identity(), "bf16"), Autocast)
