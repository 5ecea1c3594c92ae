"""Copies of a base that share its parameters and have an adapter applied: plugged, or with merged weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from loradar.adapters.adapter import Adapter
from loradar.adapters.delta import Delta
from loradar.adapters.fits import check_fits
from loradar.adapters.layers import (
    bias_name,
    dense_weight,
    has_statistics,
    is_branch_equivalent,
    weight_name,
    weight_of,
)
from loradar.adapters.reach import watch
from loradar.core.copying import copy_model
from loradar.core.modules import fold_norm, unwrap


def plug(base: nn.Module, adapter: Adapter, *, check: bool = True, merge: Iterable[tuple[str, str]] = ()) -> nn.Module:
    """Returns a shared copy of `base` with `adapter` applied: for training, and for adapters that come and go.

    The copy shares the base's parameters (frozen, as views of their own: a gradient never reaches the base) and copies
    its buffers. It holds the adapter's very tensors, so that training moves the adapter. Statistics that the adapter
    does not own stay in eval mode whatever `train()` says. Unplugging is using the base. Moving the copy to another
    device afterwards parts it from the adapter: move the base and the adapter first.

    `merge` names convolutions and the batch normalisation behind each (as `models.foldable_conv_bn` gives them): where it
    is frozen, it goes into the convolution's weights and the delta's gain. Half the activations that training keeps are
    its inputs. Logits and gradients are then the same but for rounding, and the merged weights are the copy's own.

    Raises WrongBaseError where the adapter was made for another base (`check=False` skips the hash of the weights, not
    the shapes) or is on another device, BadTargetError for a pair in `merge` that is none, and BadConfigError for a base
    that cannot be copied (see `copy_model`). The first batch in eval mode is looked at as well: it raises BadTargetError
    where the forward pass uses a changed weight without its layer, or the base's, and where it comes by none of the
    changes.
    """
    check_fits(base, adapter, hashed=check)
    plugged = copy_model(base, share=True)
    backbone = unwrap(plugged)
    beside = tuple(name for name, delta in adapter.deltas.items() if _is_beside(backbone, name, delta))
    with_own_weight = {n for n, delta in adapter.deltas.items() if n not in beside or delta.magnitude is not None}
    gains = _fold_norms(backbone, adapter, merge, with_own_weight)
    for name, delta in adapter.deltas.items():
        module, gain = backbone.get_submodule(name), gains.get(name)
        if name in beside:
            module.register_forward_hook(_Branch(delta, gain))
        else:
            parametrize.register_parametrization(module, weight_name(module), _Composed(delta))
        if delta.bias is not None:
            bias = bias_name(module)
            if name not in beside and isinstance(module._parameters.get(bias), Tensor):
                # the layer may never be called: an nn.MultiheadAttention hands its projection's weights to a function
                parametrize.register_parametrization(module, bias, _Moved(delta.bias, delta.scale))
            else:
                module.register_forward_hook(_Shift(delta.bias, delta.scale, gain))
    for name, tensor in adapter.modules_to_save.items():
        _replace(backbone, name, tensor)
    for name, module in backbone.named_modules():
        own = f"{name}.running_mean".lstrip(".") in adapter.modules_to_save and adapter.card.norm != "affine"
        if has_statistics(module) and not own:
            module.eval()
            # on the instance: `plugged.train()` asks each module in turn, and this one declines
            object.__setattr__(module, "train", MethodType(_stay, module))
    watch(plugged, base, adapter, beside)
    return plugged


def merge_weights(base: nn.Module, adapter: Adapter, *, check: bool = True) -> nn.Module:
    """Returns a plain model of merged weights, as they are now: for attacking and serving. No gradients.

    It shares the base's unchanged parameters and copies its buffers; later training of the adapter does not move it.
    Raises as `plug` does, at the first batch too; from then on it has no hooks.
    """
    check_fits(base, adapter, hashed=check)
    merged_model = copy_model(base, share=True)
    update_merged(merged_model, base, adapter)
    if check:
        watch(merged_model, base, adapter)
    return merged_model


def update_merged(merged_model: nn.Module, base: nn.Module, adapter: Adapter) -> None:
    """Brings a model that `merge_weights` made of `base` and `adapter` to the adapter's values of this moment, in place."""
    backbone, source = unwrap(merged_model), unwrap(base)
    for name, delta in adapter.deltas.items():
        _merge_one(backbone.get_submodule(name), source.get_submodule(name), weight_of(source, name), delta)
    for name, tensor in adapter.modules_to_save.items():
        value = tensor.detach().clone()
        is_parameter = name.rpartition(".")[2] in backbone.get_submodule(name.rpartition(".")[0])._parameters
        _replace(backbone, name, nn.Parameter(value, requires_grad=False) if is_parameter else value)


def _merge_one(module: nn.Module, source: nn.Module, weight: Tensor, delta: Delta) -> None:
    """Gives `module` the weight (and bias) of `source` with the change."""
    own_weight = weight.detach()
    if isinstance(module, nn.Conv2d) and isinstance(source, nn.Conv2d) and delta.shape != tuple(weight.shape):
        # PEFT's change of a grouped convolution reads across the groups
        weight, module.groups = dense_weight(source), 1
    # clone first: it keeps the memory format
    merged = weight.detach().clone()
    if delta.magnitude is None or merged.shape != own_weight.shape:
        merged = merged.add_(delta.weight().detach())
        if delta.magnitude is not None:
            merged = merged.mul_(delta.gain(own_weight).detach()[:, None, None, None])
    else:
        merged = delta.changed(merged).detach()
    module.register_parameter(weight_name(module), nn.Parameter(merged, requires_grad=False))
    if delta.bias is not None:
        own = source._parameters.get(bias_name(source))
        shift = (delta.bias.detach() * delta.scale).to(merged.dtype)
        bias = own.detach() + shift if isinstance(own, Tensor) else shift
        module.register_parameter(bias_name(module), nn.Parameter(bias, requires_grad=False))


def _is_beside(backbone: nn.Module, name: str, delta: Delta) -> bool:
    """Whether a delta is computed beside its layer; else it is composed into the layer's weight."""
    if delta.shape != tuple(weight_of(backbone, name).shape):  # it reads across the groups of a convolution
        return True
    return delta.magnitude is None and delta.branch_equivalent and is_branch_equivalent(backbone, name)


def _fold_norms(
    backbone: nn.Module, adapter: Adapter, pairs: Iterable[tuple[str, str]], kept: set[str]
) -> dict[str, Tensor]:
    """Folds frozen normalisation into the convolutions before it, but for those in `kept`.

    Returns their gains per output channel, by name.
    """
    gains: dict[str, Tensor] = {}
    owned = {name.rpartition(".")[0] for name in adapter.modules_to_save}
    for first, second in pairs:
        if first not in kept and not owned & {first, second}:
            gains[first] = fold_norm(backbone, first, second)
    return gains


def _replace(backbone: nn.Module, name: str, tensor: Tensor) -> None:
    layer, _, leaf = name.rpartition(".")
    module = backbone.get_submodule(layer)
    setattr(module, leaf, tensor)
    if isinstance(module, nn.Linear) and leaf == "weight":
        # a head may be for another number of classes
        module.out_features = len(tensor)
    elif isinstance(module, nn.Conv2d) and leaf == "weight":
        module.out_channels = len(tensor)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    return module


@dataclass(frozen=True, eq=False)
class _Branch:
    """Adds B(A x) to a layer's output: cheaper to train than a changed weight, which pays for its full gradient.

    `gain` multiplies the output's channels, where the layer's own weights hold the normalisation behind it.
    """

    delta: Delta
    gain: Tensor | None

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (x,) = args
        branch = self._through(module, x, self.delta.a, self.delta.b)
        if self.delta.init_factors is not None:
            branch = branch - self._through(module, x, *self.delta.init_factors)
        if self.delta.magnitude is None:
            return output + branch
        # DoRA on a grouped convolution: the whole output but the layer's bias is brought to the magnitude
        assert isinstance(module, nn.Conv2d)
        lengthened = self.delta.gain(module.weight).to(output.dtype)[:, None, None]
        bias = 0 if module.bias is None else module.bias.to(output.dtype)[:, None, None]
        return (output - bias + branch) * lengthened + bias

    def _through(self, module: nn.Module, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        b = self.delta.wide(b * self.delta.scale)
        if self.gain is not None:
            b = b * self.gain[:, None]
        a, b = a.to(x.dtype), b.to(x.dtype)
        if not isinstance(module, nn.Conv2d):
            return F.linear(F.linear(x, a), b)
        inner = a.view(len(a), *self.delta.shape[1:])
        narrow = F.conv2d(x, inner, None, module.stride, module.padding, module.dilation)
        return F.conv2d(narrow, b[:, :, None, None])


class _Composed(nn.Module):
    """The changed weight itself, where a branch would be wrong."""

    def __init__(self, delta: Delta) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, weight: Tensor) -> Tensor:
        return self.delta.changed(weight)


class _Moved(nn.Module):
    """The changed bias itself."""

    def __init__(self, shift: Tensor, scale: float) -> None:
        super().__init__()
        self.shift, self.scale = [shift], scale  # in a list: it is the adapter's, no parameter of the model

    def forward(self, bias: Tensor) -> Tensor:
        return bias + (self.shift[0] * self.scale).to(bias.dtype)


@dataclass(frozen=True, eq=False)
class _Shift:
    """Adds a bias to a layer's output, times the scale of its delta."""

    bias: Tensor
    scale: float
    gain: Tensor | None

    def __call__(self, module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        shift = self.bias * self.scale if self.gain is None else self.bias * self.scale * self.gain
        shift = shift.to(output.dtype)
        return output + (shift[:, None, None] if isinstance(module, nn.Conv2d) else shift)
