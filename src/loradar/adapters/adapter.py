"""An adapter: everything that differs from a frozen base."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from loradar.adapters.card import Card, Norm
from loradar.adapters.delta import Delta
from loradar.adapters.fingerprint import fingerprint
from loradar.adapters.heads import find_heads
from loradar.adapters.init import Init, init_delta
from loradar.adapters.layers import (
    STATISTICS,
    find_affine_norms,
    find_norms,
    fused_matrices,
    is_branch_equivalent,
    weight_name,
    weight_of,
)
from loradar.adapters.ranks import DEFAULT_RANK, ranks_of
from loradar.adapters.saving import save
from loradar.adapters.targets import find_targets
from loradar.core.errors import BadConfigError, BadTargetError
from loradar.core.modules import unwrap


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """Deltas by layer name, tensors that replace the base's by name, and the card.

    Names are relative to the user's own backbone. `modules_to_save` holds the heads, and with owned statistics every
    tensor of every layer that has them. Training moves these very tensors; a plugged model has them in place of the base's.
    """

    deltas: Mapping[str, Delta] = field(default_factory=dict)
    modules_to_save: Mapping[str, Tensor] = field(default_factory=dict)
    card: Card = field(default_factory=Card)

    @property
    def ranks(self) -> dict[str, int]:
        """The rank of each layer's change; of a fused one in groups, that of each of its matrices."""
        return {name: delta.rank // delta.groups for name, delta in self.deltas.items()}

    def parameters(self) -> list[Tensor]:
        """What an optimiser moves: the factors and the head (the leaves that require grad)."""
        factors = [tensor for delta in self.deltas.values() for tensor in delta.tensors.values()]
        return [tensor for tensor in (*factors, *self.modules_to_save.values()) if tensor.requires_grad]

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training may move, under flat names. Views: they move along; `clone` them to keep them."""
        state: dict[str, Tensor] = {}
        for name, delta in self.deltas.items():
            state |= {f"{name}.{own}": tensor.detach() for own, tensor in delta.tensors.items()}
        return state | {name: tensor.detach() for name, tensor in self.modules_to_save.items()}

    def with_card(self, **changes: Any) -> "Adapter":
        """The same tensors under a card with these fields changed."""
        return dataclasses.replace(self, card=dataclasses.replace(self.card, **changes))

    def save(self, folder: str | Path, base: nn.Module | None = None) -> Path:
        """Writes the adapter as `folder`, which `load` and PEFT read; with `base` it is checked first that it fits.

        Raises BadFileError where the disk is full, or where `folder` holds something else than an adapter.
        """
        return save(self, folder, base)

    def to(self, device: torch.device | str) -> "Adapter":
        """A copy on `device`."""
        modules_to_save = {
            name: keep(name, tensor.detach().to(device, copy=True), trainable=tensor.requires_grad)
            for name, tensor in self.modules_to_save.items()
        }
        deltas = {name: delta.to(device) for name, delta in self.deltas.items()}
        return Adapter(deltas=deltas, modules_to_save=modules_to_save, card=self.card)


def keep(name: str, tensor: Tensor, *, trainable: bool) -> Tensor:
    """`tensor` as an adapter holds it under `name`: a parameter, unless it is a running statistic."""
    if name.rpartition(".")[2] in STATISTICS:
        return tensor
    return nn.Parameter(tensor, requires_grad=trainable)


def init_adapter(
    base: nn.Module,
    *,
    target_modules: str | Sequence[str] = "auto",
    rank: int | str | Mapping[str, int | str] = DEFAULT_RANK,
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
    the first that matches counts and 0 leaves a layer out; "<=16" is 16 or the smaller side of a layer. The scale of a
    delta is lora_alpha / rank; lora_alpha is each layer's rank unless given. `head` trains copies of the layers that make
    the logits (see `find_heads`), or of those that it names. `norm` says what of the normalisation layers is the
    adapter's own: "statistics" (running ones, moved by train mode), "affine" (gains and biases), "owned" (both).
    `fused="split"` takes a fused attention layer as its three matrices, each with factors of its own. No targets,
    or rank 0, mean no deltas (the head-only baseline).
    Raises BadTargetError for targets or a rank that do not fit.
    """
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
    ranks = ranks_of(backbone, groups, rank)
    if init == "zeros" and ranks:
        warnings.warn(
            "init='zeros' never learns: with both factors at zero both gradients are zero; use 'random' or 'svd'",
            stacklevel=2,
        )
    common = next(iter(ranks.values())) if len(set(ranks.values())) == 1 else 0
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
    return Adapter(deltas=deltas, modules_to_save=_copies(backbone, card), card=card)


def full_adapter(base: nn.Module, *, weights: nn.Module | None = None, seed: int = 0) -> Adapter:
    """A trainable adapter that owns every parameter of `base` but those of its heads, as large as the base itself.

    They start as copies of those of `weights`, a model with the same layers (its head does not matter), or of the base's.
    """
    heads, backbone = find_heads(base), unwrap(base if weights is None else weights)
    modules_to_save = {
        name: nn.Parameter(tensor.detach().clone())
        for name, tensor in backbone.named_parameters()
        if name.rpartition(".")[0] not in heads
    }
    return Adapter(
        modules_to_save=modules_to_save, card=Card(base_fingerprint=fingerprint(base), init="whole", seed=seed)
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


def _copies(backbone: nn.Module, card: Card) -> dict[str, Tensor]:
    moving = find_norms(backbone) if card.norm in ("statistics", "owned") else ()
    affine = find_affine_norms(backbone) if card.norm in ("affine", "owned") else ()
    # all that a module has, as PEFT asks for it
    return {
        f"{layer}.{leaf}": keep(
            f"{layer}.{leaf}", tensor.detach().clone(), trainable=layer in (*card.modules_to_save, *affine)
        )
        for layer in dict.fromkeys([*card.modules_to_save, *moving, *affine])
        for leaf, tensor in backbone.get_submodule(layer).state_dict().items()
    }
