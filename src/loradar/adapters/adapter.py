"""An adapter: everything that differs from a frozen base."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import torch
from torch import Tensor, nn

from loradar.adapters.card import Card, Norm
from loradar.adapters.delta import Delta
from loradar.adapters.fingerprint import fingerprint
from loradar.adapters.init import Start, start
from loradar.adapters.layers import STATISTICS, find_head, find_norms, fused_matrices, is_plain, weight_of
from loradar.adapters.targets import find_targets
from loradar.core.errors import BadConfigError, BadTargetError
from loradar.core.modules import innermost


@dataclass(frozen=True, kw_only=True, eq=False)
class Adapter:
    """Deltas by layer name, tensors that replace the base's by name, and the card.

    Names are relative to the base's innermost backbone. `replaced` holds the head, and with owned statistics every
    tensor of every layer that has them. Training moves these very tensors; a plugged model wears them.
    """

    deltas: Mapping[str, Delta] = field(default_factory=dict)
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    card: Card = field(default_factory=Card)

    def parameters(self) -> list[Tensor]:
        """What an optimiser moves: the factors and the head (the leaves that require grad)."""
        factors = [tensor for delta in self.deltas.values() for tensor in (delta.a, delta.b)]
        return [tensor for tensor in (*factors, *self.replaced.values()) if tensor.requires_grad]

    def state(self) -> dict[str, Tensor]:
        """Every tensor that training may move, under flat names. Views: they move along; `clone` them to keep them."""
        state: dict[str, Tensor] = {}
        for name, delta in self.deltas.items():
            state |= {f"{name}.lora_A": delta.a.detach(), f"{name}.lora_B": delta.b.detach()}
        return state | {name: tensor.detach() for name, tensor in self.replaced.items()}

    def with_card(self, **changes: Any) -> "Adapter":
        """The same tensors under a card with these fields changed."""
        return dataclasses.replace(self, card=dataclasses.replace(self.card, **changes))

    def to(self, device: torch.device | str) -> "Adapter":
        """A copy on `device`."""
        replaced = {
            name: keep(name, tensor.detach().to(device, copy=True), trainable=tensor.requires_grad)
            for name, tensor in self.replaced.items()
        }
        deltas = {name: delta.to(device) for name, delta in self.deltas.items()}
        return Adapter(deltas=deltas, replaced=replaced, card=self.card)


def keep(name: str, tensor: Tensor, *, trainable: bool) -> Tensor:
    """`tensor` as an adapter holds it under `name`: a parameter, unless it is a running statistic."""
    if name.rpartition(".")[2] in STATISTICS:
        return tensor
    return nn.Parameter(tensor, requires_grad=trainable)


def fresh(
    base: nn.Module,
    *,
    targets: str | Sequence[str],
    rank: int = 4,
    alpha: float | None = None,
    start: Start = "random",
    head: bool = True,
    norm: Norm = "frozen",
    fused: Literal["whole", "split"] = "whole",
    seed: int = 0,
    name: str = "adapter",
) -> Adapter:
    """A trainable adapter of `base` that changes nothing yet, on the device of `base`.

    The scale of a delta is alpha / rank; alpha is rank unless given. `head` trains a copy of the classifier's last
    layer. `norm="owned"` gives the adapter running statistics of its own. `fused="split"` takes a fused attention layer
    as its three matrices, each with factors of its own. No targets, or rank 0, mean no deltas (the head-only baseline).
    Raises BadTargetError for targets or a rank that do not fit.
    """
    backbone = innermost(base)
    if rank < 0 or (alpha is not None and not alpha > 0):
        raise BadConfigError(f"rank is {rank} and alpha {alpha}; expected rank 0 or more and alpha above 0")
    alpha = float(rank if alpha is None else alpha)
    layers = find_targets(base, targets) if rank else ()
    own_head = find_head(base) if head else ""
    if own_head and own_head in layers:
        raise BadTargetError(
            f"{own_head} is the head, which is trained whole; leave it out of the targets, or head=False"
        )
    if start == "zeros" and layers:
        warnings.warn(
            "start='zeros' never learns: with both factors at zero both gradients are zero; use 'random' or 'svd'",
            stacklevel=2,
        )
    card = Card(
        name=name,
        base_fingerprint=fingerprint(base),
        targets=layers,
        rank=rank,
        alpha=alpha,
        start=start,
        head=own_head,
        norm=norm,
        seed=seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    deltas = _deltas(backbone, card, start, split=fused == "split")
    return Adapter(deltas=deltas, replaced=_copies(backbone, card), card=card)


def whole(base: nn.Module, *, weights: nn.Module | None = None, seed: int = 0) -> Adapter:
    """A trainable adapter that owns every parameter of `base` but the head's, as large as the base itself.

    They start as copies of those of `weights`, a model with the same layers (its head does not matter), or of the base's.
    """
    head, backbone = find_head(base), innermost(base if weights is None else weights)
    replaced = {
        name: nn.Parameter(tensor.detach().clone())
        for name, tensor in backbone.named_parameters()
        if name.rpartition(".")[0] != head
    }
    return Adapter(replaced=replaced, card=Card(base_fingerprint=fingerprint(base), start="whole", seed=seed))


def _deltas(backbone: nn.Module, card: Card, kind: Start, *, split: bool) -> dict[str, Delta]:
    return {
        layer: start(
            weight_of(backbone, layer),
            card.rank,
            kind,
            card.seed,
            name=f"{layer}.weight",
            scale=card.alpha / card.rank,
            plain=is_plain(backbone, layer),
            groups=fused_matrices(backbone, layer) if split else 1,
        )
        for layer in card.targets
    }


def _copies(backbone: nn.Module, card: Card) -> dict[str, Tensor]:
    owned = [card.head] if card.head else []
    owned += find_norms(backbone) if card.norm == "owned" else ()
    return {
        f"{layer}.{leaf}": keep(f"{layer}.{leaf}", tensor.detach().clone(), trainable=layer == card.head)
        for layer in owned
        for leaf, tensor in backbone.get_submodule(layer).state_dict().items()
    }
