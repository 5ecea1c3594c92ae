"""An adapter: everything that differs from a frozen base."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loradar.adapters.card import Card
from loradar.adapters.delta import Delta
from loradar.adapters.layers import STATISTICS
from loradar.adapters.saving import save


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

    def statistics(self) -> list[Tensor]:
        """The running means and variances that it owns, which the passes of a model in train mode move."""
        named = self.modules_to_save.items()
        return [t for name, t in named if name.rpartition(".")[2] in STATISTICS and t.is_floating_point()]

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
