"""New adapters of a base: with low-rank changes that change nothing yet, or with every parameter."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Literal, cast

import torch
from torch import Tensor, nn

from loradar.adapters.adapter import Adapter, keep
from loradar.adapters.budget import ranks_within
from loradar.adapters.card import Card, Norm
from loradar.adapters.delta import Delta
from loradar.adapters.fingerprint import fingerprint
from loradar.adapters.heads import find_heads
from loradar.adapters.init import Init, init_delta
from loradar.adapters.layers import (
    find_affine_norms,
    find_norms,
    fused_matrices,
    is_branch_equivalent,
    weight_name,
    weight_of,
)
from loradar.adapters.ranks import DEFAULT_RANK, common_rank, ranks_of
from loradar.adapters.targets import find_targets
from loradar.core.errors import BadConfigError, BadTargetError
from loradar.core.modules import unwrap
from loradar.core.ranks import parse_bytes


@torch.inference_mode(False)  # what was made within it could not be trained
def init_adapter(
    base: nn.Module,
    *,
    target_modules: str | Sequence[str] = "auto",
    rank: int | str | Mapping[str, int | str] | None = None,
    max_bytes: int | str | None = None,
    lora_alpha: float | None = None,
    init: Init = "random",
    head: bool | str | Sequence[str] = True,
    norm: Norm = "frozen",
    fused: Literal["whole", "split"] = "whole",
    seed: int = 0,
    name: str = "adapter",
) -> Adapter:
    """A trainable adapter of `base` that changes nothing yet, on the device of `base`.

    `rank` is that of all layers, or one per pattern of their names: {"layer2*": 32, "*": 8}, or "layer2*=32,8", where
    the first that matches counts and 0 leaves a layer out; "<=16" is 16 or the smaller side of a layer; 4 unless given.
    `max_bytes` takes its place: the most that the saved weights may have ("400kB"), by which the ranks are chosen, nearly
    the same for all layers (see `ranks_within`). The scale of a delta is lora_alpha / rank; lora_alpha is each layer's
    rank unless given. `head` trains copies of the layers that make the logits (see `find_heads`), or of those that it
    names. `norm` says what of the normalisation layers is the adapter's own: "statistics" (running ones, moved by train
    mode), "affine" (gains and biases), "owned" (both). `fused="split"` takes a fused attention layer as its three
    matrices, each with factors of its own. No targets, or rank 0, mean no deltas (the head-only baseline).
    Raises BadTargetError for targets or a rank that do not fit, BadConfigError for a size that rank 1 does not fit into.
    """
    if rank is not None and max_bytes is not None:
        raise BadConfigError(f"rank is {rank!r} and max_bytes is {max_bytes!r}; expected one of the two")
    backbone = unwrap(base)
    if lora_alpha is not None and not 0 < lora_alpha < inf:
        raise BadConfigError(f"lora_alpha is {lora_alpha}; expected a finite lora_alpha above 0")
    named: str | Sequence[str] = () if isinstance(head, bool) else head
    heads = find_heads(base, named) if head else ()
    layers = find_targets(base, target_modules, head=named) if rank != 0 else ()
    if both := set(heads) & set(layers):
        raise BadTargetError(
            f"{min(both)} is the head, which is trained whole; leave it out of the targets, or head=False"
        )
    groups = {layer: fused_matrices(backbone, layer) if fused == "split" else 1 for layer in layers}
    whole = whole_copies(backbone, heads, norm)
    if max_bytes is None:
        ranks = ranks_of(backbone, groups, DEFAULT_RANK if rank is None else rank)
    else:
        ranks = ranks_within(backbone, groups, whole, parse_bytes(max_bytes), init)
    if init == "zeros" and ranks:
        warnings.warn(
            "init='zeros' never learns: with both factors at zero both gradients are zero; use 'random' or 'svd'",
            stacklevel=2,
        )
    common = common_rank(ranks)
    card = Card(
        name=name,
        base_fingerprint=fingerprint(base),
        target_modules=tuple(ranks),
        rank=common,
        lora_alpha=float(common if lora_alpha is None else lora_alpha),
        init=init,
        head=heads[0] if heads else "",
        modules_to_save=heads,
        norm=norm,
        seed=seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    deltas = {layer: _delta(backbone, layer, own, groups[layer], lora_alpha, card) for layer, own in ranks.items()}
    return Adapter(deltas=deltas, modules_to_save=whole, card=card)


@torch.inference_mode(False)
def full_adapter(
    base: nn.Module, *, weights: nn.Module | None = None, head: bool = False, seed: int = 0, name: str = "adapter"
) -> Adapter:
    """A trainable adapter that owns every parameter of `base` but those of its heads, as large as the base itself.

    They start as copies of those of `weights`, a model with the same layers (its head does not matter), or of the base's.
    With `head` it owns those of the heads too, and the running statistics: all that fine-tuning a whole model moves.
    """
    heads, backbone = find_heads(base), unwrap(base if weights is None else weights)
    tensors: dict[str, Tensor] = {
        own: tensor for own, tensor in backbone.named_parameters() if head or own.rpartition(".")[0] not in heads
    }
    card = Card(name=name, base_fingerprint=fingerprint(base), init="whole", seed=seed)
    if head:
        moving = find_norms(backbone)
        tensors |= {n: tensor for n, tensor in backbone.named_buffers() if n.rpartition(".")[0] in moving}
        layers = dict.fromkeys(n.rpartition(".")[0] for n in tensors if "." in n)
        card = dataclasses.replace(
            card, head=heads[0], modules_to_save=tuple(dict.fromkeys([*heads, *layers])), norm="owned"
        )
    return Adapter(
        modules_to_save={n: keep(n, tensor.detach().clone(), trainable=True) for n, tensor in tensors.items()},
        card=card,
    )


def _delta(backbone: nn.Module, layer: str, rank: int, groups: int, lora_alpha: float | None, card: Card) -> Delta:
    return init_delta(
        weight_of(backbone, layer),
        rank,
        cast(Init, card.init),
        card.seed,
        name=f"{layer}.{weight_name(backbone.get_submodule(layer))}",
        scale=1.0 if lora_alpha is None else lora_alpha / rank,
        branch_equivalent=is_branch_equivalent(backbone, layer),
        groups=groups,
    )


def whole_copies(backbone: nn.Module, heads: Sequence[str], norm: Norm) -> dict[str, Tensor]:
    """Returns copies of all tensors of the heads and of what `norm` says of the normalisation layers, by name."""
    moving = find_norms(backbone) if norm in ("statistics", "owned") else ()
    affine = find_affine_norms(backbone) if norm in ("affine", "owned") else ()
    # all that a module has, as PEFT asks for it
    return {
        f"{layer}.{leaf}": keep(f"{layer}.{leaf}", tensor.detach().clone(), trainable=layer in (*heads, *affine))
        for layer in dict.fromkeys([*heads, *moving, *affine])
        for leaf, tensor in backbone.get_submodule(layer).state_dict().items()
    }
