"""The same logits with less work: copies that will not learn again, and convolutions of a single pixel."""

from collections import Counter
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from loradar.core.copying import copy_model
from loradar.core.modules import fold_norm, unwrap
from loradar.core.tracing import trace
from loradar.models.precision import Autocast, Precision, resolve_precision

Pair = tuple[str, str]
"""Names of a convolution and of the batch normalisation behind it, relative to the user's own backbone."""


def foldable_conv_bn(model: nn.Module) -> tuple[Pair, ...]:
    """The convolutions whose output goes through one batch normalisation and nowhere else; what `frozen` may merge.

    Found in the traced graph of the user's own backbone; none where its forward cannot be traced.
    """
    backbone = unwrap(model)
    try:
        graph = trace(backbone)
    except Exception:  # whatever a user's forward does with a traced tensor: nothing is merged then
        return ()
    return tuple(_pairs(graph, dict(backbone.named_modules())))


def _pairs(graph: fx.Graph, modules: dict[str, nn.Module]) -> Iterator[Pair]:
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in graph.nodes:
        before = node.args[0] if node.args else None
        if not (node.op == "call_module" and isinstance(before, fx.Node) and before.op == "call_module"):
            continue
        convolution, normalisation = modules[str(before.target)], modules[str(node.target)]
        if (
            type(convolution) is nn.Conv2d
            and type(normalisation) is nn.BatchNorm2d
            and normalisation.track_running_stats
            and len(before.users) == calls[before.target] == calls[node.target] == 1
        ):
            yield str(before.target), str(node.target)


def optimize_for_inference(model: nn.Module, precision: Precision = "auto", *, merge: Iterable[Pair] = ()) -> nn.Module:
    """A copy of `model` in eval mode for attacking and serving: its logits but for rounding, sooner.

    The pairs in `merge` become one convolution each (Jacob et al., "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2), weights are kept in the precision that they
    are used in, channels last, and convolutions are `skip_padding`. Images still receive gradients, parameters do not. The
    copy does not follow later changes of `model`. Raises BadTargetError for a pair that is none.
    """
    parameter = next(model.parameters(), None)
    dtype = resolve_precision(precision, "cpu" if parameter is None else parameter.device)
    one = copy_model(model).eval().requires_grad_(False)
    backbone = unwrap(one)
    for first, second in merge:
        fold_norm(backbone, first, second)
    one = skip_padding(one.requires_grad_(False)).to(memory_format=torch.channels_last)
    if dtype == torch.float32:
        return one
    cast_weights(backbone, dtype)
    return Autocast(one, dtype)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Brings the convolutions and linear layers of `model` to `dtype`: autocast would make them anew at every pass."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.to(dtype)


def skip_padding(model: nn.Module) -> nn.Module:
    """`model` itself, its convolutions asked for no product with padding where the image is one pixel.

    Deep stages of a network made for large images see small ones so: of a 3x3 kernel eight ninths then meet zeros.
    """
    for module in model.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and _centre(module) is not None:
            module.__class__ = _OnePixel
    return model


def _centre(convolution: nn.Conv2d) -> tuple[int, int] | None:
    """Which tap of the kernel meets the one pixel of a 1x1 image whose output is 1x1 too; None where none does."""
    if isinstance(convolution.padding, str):
        return None
    taps = []
    for kernel, padding, dilation in zip(
        convolution.kernel_size, convolution.padding, convolution.dilation, strict=True
    ):
        # the output of one pixel is one pixel where the kernel spans no more than the padded image needs
        if kernel == 1 or padding % dilation or 2 * padding != dilation * (kernel - 1):
            return None
        taps.append(padding // dilation)
    return taps[0], taps[1]


class _OnePixel(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # the name that the class above gives it
        centre = _centre(self)
        if input.shape[-2:] != (1, 1) or centre is None:
            return super().forward(input)
        row, column = centre
        weight = self.weight[:, :, row : row + 1, column : column + 1]
        return F.conv2d(input, weight, self.bias, groups=self.groups)
