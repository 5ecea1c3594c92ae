"""A copy of an adapted model for crafting at every training step: its weights are brought up to date in place."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from loradar.adapters import Adapter, merge_weights
from loradar.core.modules import unwrap
from loradar.models import Pair, Precision, optimize_for_inference


class AttackCopy:
    """What `optimize_for_inference(merge_weights(base, adapter))` gives, without a new copy of the model at every step.

    `merge` names the convolutions and the normalisation behind each that may become one. A weight that training moves
    is computed anew, in the order of operations of that copy, so that both have the same bits; all others stay.
    """

    def __init__(self, base: nn.Module, adapter: Adapter, precision: Precision, *, merge: Iterable[Pair] = ()) -> None:
        self.adapter = adapter
        self.model = optimize_for_inference(merge_weights(base, adapter), precision, merge=(pairs := tuple(merge)))
        moved = {*adapter.deltas, *(name.rpartition(".")[0] for name in adapter.modules_to_save)}
        self._pairs = [pair for pair in pairs if moved & set(pair)]
        self._simple = sorted(moved - {name for pair in self._pairs for name in pair})
        self._base = unwrap(base)

    @torch.no_grad()
    def refreshed(self) -> nn.Module:
        """The model, with the adapter's values of this moment."""
        fast = unwrap(self.model)
        for convolution, norm in self._pairs:
            first, second = self._values(convolution), self._values(norm)
            module = self._base.get_submodule(norm)
            weight, bias = fuse_conv_bn_weights(
                first["weight"],
                first.get("bias"),
                second["running_mean"],
                second["running_var"],
                module.eps,  # type: ignore[arg-type]
                second.get("weight"),
                second.get("bias"),
            )
            _write(fast.get_submodule(convolution), {"weight": weight, "bias": bias})
        for name in self._simple:
            _write(fast.get_submodule(name), self._values(name))
        return self.model

    def _values(self, layer: str) -> dict[str, Tensor]:
        """Every tensor of a layer as the adapter has it now."""
        values: dict[str, Tensor] = {}
        for leaf, tensor in self._base.get_submodule(layer).state_dict().items():
            values[leaf] = self.adapter.modules_to_save.get(f"{layer}.{leaf}", tensor)
        if (delta := self.adapter.deltas.get(layer)) is not None:
            values["weight"] = delta.changed(values["weight"])
        return values


def _write(module: nn.Module, values: dict[str, Tensor]) -> None:
    for leaf, value in values.items():
        getattr(module, leaf).copy_(value)
