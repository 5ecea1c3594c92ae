"""Whether an adapter is for a base: the hash of its weights, names, shapes, devices, and the kinds of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from loradar.adapters.delta import Delta
from loradar.adapters.fingerprint import fingerprint
from loradar.adapters.layers import (
    dense_shape,
    is_branch_equivalent,
    is_lost_beside,
    is_plain_layer,
    weight_name,
    weight_of,
)
from loradar.core.errors import BadTargetError, WrongBaseError
from loradar.core.modules import unwrap

if TYPE_CHECKING:
    from loradar.adapters.adapter import Adapter


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
        module = backbone.get_submodule(name)
        shape = tuple(weight.shape)
        if delta.groups > 1 and isinstance(module, nn.Conv2d) and module.groups == delta.groups:
            shape = dense_shape(module)
        _check_one(card.name, f"{name}.{weight_name(module)}", delta.a, delta.shape, shape, weight)
        _check_kind(card.name, backbone, name, delta)
        if delta.bias is not None and isinstance(module, nn.MultiheadAttention) and module.in_proj_bias is None:
            raise WrongBaseError(
                f"adapter {card.name!r} has a bias for {name}, which has none; take an adapter without"
            )
        if not delta.is_sane(weight.detach()):
            raise WrongBaseError(
                f"adapter {card.name!r} changes {name} by values too large for {_dtype(weight)} (its scale is "
                f"{delta.scale:.4g}); get another adapter, or one with a smaller lora_alpha"
            )
    own = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    for name, tensor in adapter.modules_to_save.items():
        if name not in own:
            raise WrongBaseError(f"adapter {card.name!r} replaces {name}, which this base does not have")
        layer, _, leaf = name.rpartition(".")
        if layer in adapter.deltas and leaf == weight_name(backbone.get_submodule(layer)):
            raise WrongBaseError(f"adapter {card.name!r} both changes and replaces {name}; expected one of them")
        if tensor.dtype != own[name].dtype:
            raise WrongBaseError(
                f"adapter {card.name!r} has {name} in {_dtype(tensor)}, this base in {_dtype(own[name])}; bring the base to "
                "the adapter's dtype, or save the adapter in the base's"
            )
        shape = tuple(own[name].shape)
        if card.classes and layer in card.modules_to_save:
            # a head of its own classes, from the base's features
            shape = (len(card.classes), *shape[1:])
        _check_one(card.name, name, tensor, tuple(tensor.shape), shape, own[name])


def _check_kind(adapter: str, backbone: nn.Module, name: str, delta: Delta) -> None:
    module = backbone.get_submodule(name)
    is_plain = is_branch_equivalent(backbone, name)
    across = isinstance(module, nn.Conv2d) and delta.shape != tuple(module.weight.shape)
    if across and (module.padding_mode != "zeros" or set(module.dilation) != {1}):  # type: ignore[arg-type]
        is_plain = True  # no: but PEFT computes neither the padding nor the dilation, and so nothing that we could
    if delta.branch_equivalent == is_plain:
        return
    if delta.branch_equivalent and (is_plain_layer(module) or type(module).forward is nn.Linear.forward):
        # PEFT's own: the layer is plain, its parent has parameters beside it
        if is_lost_beside(backbone, name):
            raise WrongBaseError(
                f"adapter {adapter!r} changes {name}, whose weight {type(backbone).__name__} uses without calling the layer: "
                "PEFT's change never took part in the answers; leave it out of PEFT's target_modules"
            )
        return
    if delta.branch_equivalent and (odd := _oddity(module)):
        raise WrongBaseError(
            f"adapter {adapter!r} changes {name} beside the layer, as PEFT does, but there it is {odd}: no change of its "
            "weight equals that; leave it out of the target_modules, or load the base that the adapter was trained on"
        )
    raise WrongBaseError(
        f"adapter {adapter!r} was made for another kind of layer than this base's {name} (its dilation, "
        "groups, padding mode or class differ); load the base that it was trained on"
    )


def _oddity(module: nn.Module) -> str:
    """What makes a branch beside a layer differ from any change of its weight."""
    if not isinstance(module, nn.Conv2d) or type(module).forward is not nn.Conv2d.forward:
        return f"a {type(module).__name__}, which computes with another weight than the one that it keeps"
    if module.padding_mode != "zeros":
        return f"a convolution with padding_mode={module.padding_mode!r}, where PEFT pads with zeros"
    return "a dilated convolution, where PEFT's branch has no dilation" if set(module.dilation) != {1} else ""


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


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
