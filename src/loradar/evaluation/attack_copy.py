"""A copy of an adapted model for crafting at every training step: its weights are brought up to date in place."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from loradar.adapters import Adapter, merge_weights, update_merged
from loradar.core.modules import folded, unwrap
from loradar.models import Pair, Precision, optimize_for_inference


class AttackCopy:
    """What `optimize_for_inference(merge_weights(base, adapter))` gives, without new copies of the model at every step.

    `merge` names the convolutions and the normalisation behind each that become one. Both have the same bits.
    """

    def __init__(self, base: nn.Module, adapter: Adapter, precision: Precision, *, merge: Iterable[Pair] = ()) -> None:
        pairs = tuple(merge)
        self._base, self._adapter = base, adapter
        self._merged = merge_weights(base, adapter, check=False)
        self.model = optimize_for_inference(self._merged, precision, merge=pairs)
        moved = {*adapter.deltas, *(name.rpartition(".")[0] for name in adapter.modules_to_save)}
        self._pairs = [pair for pair in pairs if moved & set(pair)]
        self._others = sorted(moved - {name for pair in self._pairs for name in pair})

    @torch.no_grad()
    def refreshed(self) -> nn.Module:
        """The model, with the adapter's values of this moment."""
        update_merged(self._merged, self._base, self._adapter)
        merged, fast = unwrap(self._merged), unwrap(self.model)
        for convolution, norm in self._pairs:
            first, second = merged.get_submodule(convolution), merged.get_submodule(norm)
            weight, bias = folded(cast(nn.Conv2d, first), cast(nn.BatchNorm2d, second))
            _write(fast.get_submodule(convolution), {"weight": weight, "bias": bias})
        for name in self._others:
            module = merged.get_submodule(name)
            own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            _write(fast.get_submodule(name), dict(own))
        return self.model


def _write(module: nn.Module, values: dict[str, torch.Tensor]) -> None:
    for leaf, value in values.items():
        getattr(module, leaf).copy_(value)
