"""A model that wears an adapter, beside a base that does not notice."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType
from typing import TypeVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from loradar.adapters.adapter import Adapter
from loradar.adapters.delta import Delta
from loradar.adapters.fingerprint import fingerprint
from loradar.adapters.layers import find_head, has_statistics, is_branch_equivalent, weight_of
from loradar.core.errors import BadTargetError, WrongBaseError
from loradar.core.modules import unwrap

M = TypeVar("M", bound=nn.Module)


def plug(base: nn.Module, adapter: Adapter, *, check: bool = True, merge: Iterable[tuple[str, str]] = ()) -> nn.Module:
    """A twin of `base` that wears `adapter`: for training, and for using adapters as they come and go.

    The twin shares the base's parameters (frozen, as views of their own: a gradient never reaches the base) and copies
    its buffers. It holds the adapter's very tensors, so that training moves the adapter. Statistics that the adapter
    does not own stay in eval mode whatever `train()` says. Unplugging is using the base. Moving the twin to another
    device afterwards parts it from the adapter: move the base and the adapter first.

    `merge` names convolutions and the batch normalisation behind each (as `models.mergeable` gives them): where it is
    frozen, it goes into the convolution's weights and the delta's gain. Half the activations that training keeps are its
    inputs. Logits and gradients are then the same but for rounding, and the merged weights are the twin's own.

    Raises WrongBaseError where the adapter was made for another base (`check=False` skips the hash of the weights, not
    the shapes) or is on another device, BadTargetError for a pair in `merge` that is none.
    """
    check_fits(base, adapter, hashed=check)
    twin = _twin(base)
    backbone = unwrap(twin)
    gains = _merge(backbone, adapter, merge)
    for name, delta in adapter.deltas.items():
        _wear(backbone, name, delta, gains.get(name))
    for name, tensor in adapter.modules_to_save.items():
        _replace(backbone, name, tensor)
    for module in twin.modules():
        if has_statistics(module) and adapter.card.norm == "frozen":
            module.eval()
            # on the instance: `twin.train()` asks each module in turn, and this one declines
            object.__setattr__(module, "train", MethodType(_stay, module))
    return twin


def merge_weights(base: nn.Module, adapter: Adapter, *, check: bool = True) -> nn.Module:
    """A plain model of merged weights, as they are now: for attacking and serving. No hooks, nothing requires grad.

    It shares the base's unchanged parameters and copies its buffers; later training of the adapter does not move it.
    Raises as `plug` does.
    """
    check_fits(base, adapter, hashed=check)
    folded = _twin(base)
    backbone = unwrap(folded)
    for name, delta in adapter.deltas.items():
        weight = weight_of(backbone, name)
        # clone first: it keeps the memory format
        merged = weight.detach().clone()
        merged += delta.weight().detach()
        backbone.get_submodule(name).register_parameter("weight", nn.Parameter(merged, requires_grad=False))
    for name, tensor in adapter.modules_to_save.items():
        value = tensor.detach().clone()
        is_parameter = name.rpartition(".")[2] in backbone.get_submodule(name.rpartition(".")[0])._parameters
        _replace(backbone, name, nn.Parameter(value, requires_grad=False) if is_parameter else value)
    return folded


def feature_extractor(model: M) -> M:
    """A twin of `model` that gives what its head sees: (batch, features) instead of logits.

    For a timm ViT that is the class token after the last LayerNorm, for a ResNet the pooled last feature map. Raises
    BadTargetError for a model that has no Linear head.
    """
    headless = _twin(model)
    backbone = unwrap(headless)
    layer, _, leaf = find_head(model).rpartition(".")
    setattr(backbone.get_submodule(layer), leaf, nn.Identity())
    return headless


def _merge(backbone: nn.Module, adapter: Adapter, pairs: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Of each convolution that now normalises, by its name: what multiplies its output channels."""
    gains: dict[str, Tensor] = {}
    if adapter.card.norm != "frozen":
        return gains
    for first, second in pairs:
        convolution, norm = backbone.get_submodule(first), backbone.get_submodule(second)
        if not (isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
            raise BadTargetError(
                f"{first}, {second}: no convolution and its normalisation; take what mergeable() gives"
            )
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:
            raise BadTargetError(f"{second} keeps no running statistics to merge; take what mergeable() gives")
        if first in adapter.deltas and not adapter.deltas[first].branch_equivalent:
            continue
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        gain = (variance + norm.eps).rsqrt()
        gains[first] = gain if norm.weight is None else gain * norm.weight.detach()
        parent, _, leaf = second.rpartition(".")
        setattr(backbone.get_submodule(parent), leaf, nn.Identity())
    return gains


def _replace(backbone: nn.Module, name: str, tensor: Tensor) -> None:
    layer, _, leaf = name.rpartition(".")
    module = backbone.get_submodule(layer)
    setattr(module, leaf, tensor)
    if isinstance(module, nn.Linear) and leaf == "weight":
        # a head may be for another number of classes
        module.out_features = len(tensor)


def _twin(base: M) -> M:
    # deepcopy takes what the memo already holds: parameters become frozen views, all else is copied
    memo: dict[int, object] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in base.parameters()}
    return copy.deepcopy(base, memo)


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    return module


def check_fits(base: nn.Module, adapter: Adapter, *, hashed: bool = True) -> None:
    """Raises WrongBaseError where `adapter` is not for `base`; without `hashed`, names and shapes alone count."""
    card = adapter.card
    if hashed and card.base_fingerprint:
        check_base(adapter, fingerprint(base))
    backbone = unwrap(base)
    for name, delta in adapter.deltas.items():
        try:
            weight = weight_of(backbone, name)
        except BadTargetError as error:
            raise WrongBaseError(f"adapter {card.name!r} does not fit this base: {error}") from error
        _check_one(card.name, f"{name}.weight", delta.a, delta.shape, tuple(weight.shape), weight)
        if delta.branch_equivalent != is_branch_equivalent(backbone, name):
            raise WrongBaseError(
                f"adapter {card.name!r} was made for another kind of layer than this base's {name} (its dilation, "
                "groups, padding mode or class differ); load the base that it was trained on"
            )
    own = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    for name, tensor in adapter.modules_to_save.items():
        if name not in own:
            raise WrongBaseError(f"adapter {card.name!r} replaces {name}, which this base does not have")
        shape = tuple(own[name].shape)
        if card.classes and name.rpartition(".")[0] == card.head:
            # a head of its own classes, from the base's features
            shape = (len(card.classes), *shape[1:])
        _check_one(card.name, name, tensor, tuple(tensor.shape), shape, own[name])


def check_base(adapter: Adapter, found: str) -> None:
    """Raises WrongBaseError where `adapter` names another base than the one of fingerprint `found`."""
    if adapter.card.base_fingerprint not in ("", found):
        raise WrongBaseError(
            f"adapter {adapter.card.name!r} belongs to the base {adapter.card.base_fingerprint[:12]}, this one is "
            f"{found[:12]}; load the base that it was trained on"
        )


def _check_one(
    adapter: str, name: str, tensor: Tensor, shape: tuple[int, ...], expected: tuple[int, ...], own: Tensor
) -> None:
    if shape != expected:
        raise WrongBaseError(
            f"adapter {adapter!r} has {name} of {shape}, this base {expected}; load the base that it was trained on"
        )
    if tensor.device != own.device:
        raise WrongBaseError(
            f"adapter {adapter!r} is on {tensor.device}, the base on {own.device}; adapter.to({str(own.device)!r})"
        )


def _wear(backbone: nn.Module, name: str, delta: Delta, gain: Tensor | None) -> None:
    module = backbone.get_submodule(name)
    if delta.branch_equivalent:
        module.register_forward_hook(_Branch(delta, gain))
    else:
        parametrize.register_parametrization(module, "weight", _Composed(delta))


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
        return output + branch

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
        return weight + self.delta.weight().to(weight.dtype)
