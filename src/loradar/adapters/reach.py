"""Whether a plugged model comes by the changes that it was given: looked at once, at its first batch in eval mode."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.func import functional_call

from loradar.adapters.adapter import Adapter
from loradar.adapters.layers import weight_name
from loradar.core.errors import BadTargetError
from loradar.core.modules import unwrap


def watch(plugged: nn.Module, adapter: Adapter, beside: tuple[str, ...], reached: set[str]) -> None:
    """Checks the first batch that `plugged` answers in eval mode.

    `beside` are the layers whose delta is computed beside them, `reached` is filled by the deltas as they are computed.

    Raises BadTargetError from that forward pass: where it came by no change at all, so that the model computes elsewhere
    than in its own modules; and where it uses a weight without calling its layer, which loses the delta beside it.
    """
    heads = {name.rpartition(".")[0] for name in adapter.modules_to_save} - set(adapter.deltas)
    backbone = unwrap(plugged)
    for name in heads:
        backbone.get_submodule(name).register_forward_hook(_Mark(name, reached))
    reached.clear()  # a composed weight was computed once when it was put in its place
    if adapter.deltas or heads:
        plugged.register_forward_hook(_FirstBatch(adapter.card.name, beside, reached))


class _Mark:
    """Notes that the forward pass came by a module."""

    def __init__(self, name: str, reached: set[str]) -> None:
        self.name, self.reached = name, reached

    def __call__(self, _module: nn.Module, _args: object, _output: object) -> None:
        self.reached.add(self.name)


class _FirstBatch:
    def __init__(self, adapter: str, beside: Collection[str], reached: set[str]) -> None:
        self.adapter, self.beside, self.reached = adapter, beside, reached
        self.is_done = False

    def __call__(self, model: nn.Module, args: tuple[object, ...], _output: object) -> None:
        if self.is_done or model.training or not args or not isinstance(args[0], Tensor):
            return
        self.is_done = True  # before the model is called once more, below
        if not self.reached:
            raise BadTargetError(
                f"the forward pass of {type(unwrap(model)).__name__} comes by nothing that adapter {self.adapter!r} changes: "
                "it computes elsewhere than in its own modules (a function or a model kept outside of them); give the module "
                "that computes"
            )
        missed = [name for name in self.beside if name not in self.reached]
        if missed and (lost := _used(model, missed, args[0])):
            raise BadTargetError(
                f"the forward pass of {type(unwrap(model)).__name__} uses the weight of {lost[0]} without calling the layer, "
                f"so the delta of adapter {self.adapter!r} beside it is lost; leave {', '.join(lost[:3])} out of the "
                "target_modules"
            )


def _used(model: nn.Module, layers: list[str], x: Tensor) -> list[str]:
    """Those of `layers` whose weight the output depends on, although the forward pass did not call them."""
    backbone = unwrap(model)
    prefix = next(f"{name}." if name else "" for name, module in model.named_modules() if module is backbone)
    with torch.inference_mode(False), torch.enable_grad():
        modules = {name: backbone.get_submodule(name) for name in layers}
        leaves = {
            f"{prefix}{name}.{weight_name(module)}": getattr(module, weight_name(module))
            .detach()
            .clone()
            .requires_grad_()
            for name, module in modules.items()
        }
        output = functional_call(model, leaves, (x[:1].clone(),))
        if not isinstance(output, Tensor) or not output.requires_grad:
            return []
        grads = torch.autograd.grad(output.sum(), list(leaves.values()), allow_unused=True)
    return [name for name, grad in zip(layers, grads, strict=True) if grad is not None]
