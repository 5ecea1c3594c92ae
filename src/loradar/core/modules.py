"""Helpers for models that others wrote: the backbone below our wrappers, the logits, eval mode, the output of a layer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from loradar.core.errors import BadConfigError, BadTargetError, did_you_mean
from loradar.core.types import Labels, Logits

_MIDDLE_STRIDE = 8
_UNSEEN = ContextVar("_UNSEEN", default=False)


class Wrapper(nn.Module):
    """Marks a module of ours around a user's model, which is kept as `wrapped`; `unwrap` follows these and no others."""

    wrapped: nn.Module


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the user's own backbone, below our wrappers.

    Names of layers, in adapters and in attacks, are relative to it. An attribute of the user's own that is called
    `wrapped` is not followed.
    """
    while isinstance(model, Wrapper):
        model = model.wrapped
    return model


def take_logits(output: object) -> Logits:
    """Returns the logits in what a model gave back: a tensor as it is, and what a container names `logits`.

    Such containers are dictionaries (a ModelOutput of transformers is one) and named tuples (GoogLeNet and Inception of
    torchvision in train mode). Raises BadConfigError for any other container; the tensor is not looked at (`check_logits`).
    """
    if isinstance(output, Mapping) and "logits" in output:
        return take_logits(output["logits"])
    if isinstance(output, tuple) and "logits" in getattr(output, "_fields", ()):
        return take_logits(output.logits)  # type: ignore[attr-defined]
    if output is None or isinstance(output, Mapping | tuple | list):
        raise BadConfigError(
            f"the model gives {_said(output)}; expected logits (batch, classes): wrap it in an nn.Module whose forward "
            "returns the logits alone"
        )
    return cast(Logits, output)


def answers_of(logits: Logits) -> Labels:
    """Returns the likeliest class of each row; -1, which no label equals, where the largest logit is NaN or infinite.

    A class that a model excludes by a logit of minus infinity leaves the others as they are.

    >>> answers_of(torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [torch.inf, 0.0], [-torch.inf, 0.0]])).tolist()
    [1, -1, -1, 1]
    """
    return logits.argmax(1).masked_fill(~logits.amax(1).isfinite(), -1)


def check_logits(output: object, count: int | None = None) -> Logits:
    """Returns the logits (batch, classes) of what a model gave back for `count` images, of two classes or more.

    The logits of a dictionary, of a ModelOutput of transformers and of a named tuple are taken by that name. Raises
    BadConfigError for anything else, in one line that says how to mend the model: another container, maps, a single
    column, another number of rows than images, sparse tensors, and whole numbers, which are answers and have no gradient.
    """
    logits = take_logits(output)
    if not isinstance(logits, Tensor):
        raise BadConfigError(f"the model gives {_said(logits)}; expected logits (batch, classes)")
    if not logits.is_floating_point():
        raise BadConfigError(f"the model gives {logits.dtype}; expected logits of a float type, before any argmax")
    if logits.layout != torch.strided:
        raise BadConfigError(
            f"the model gives a tensor of layout {logits.layout}; expected a dense one: logits.to_dense()"
        )
    shape = tuple(logits.shape)
    if len(shape) == 2 and not shape[1]:
        raise BadConfigError(f"the model gives shape {shape}, of no class; expected logits of two classes or more")
    if len(shape) == 1 or shape[1:] == (1,):
        raise BadConfigError(
            f"the model gives one value per image, of shape {shape}; expected logits (batch, classes) of two classes or more: "
            "for the values z of a sigmoid return torch.stack([torch.zeros_like(z), z], 1), whose softmax is that sigmoid"
        )
    if len(shape) != 2:
        mend = "add nn.Flatten() behind it" if shape[2:] and set(shape[2:]) == {1} else "pool it first"
        raise BadConfigError(f"the model gives shape {shape}; expected logits (batch, classes): {mend}")
    if count is not None and len(logits) != count:
        mend = ": transpose them" if shape[1] == count else ""
        raise BadConfigError(
            f"the model gives logits of shape {shape} for {count} images; expected a row for each{mend}"
        )
    return logits


def _said(output: object) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(repr, output)) or 'nothing'}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"


def fold_norm(backbone: nn.Module, convolution: str, norm: str) -> Tensor:
    """Folds a batch normalisation into the convolution before it, in place: of `backbone`, both by name.

    The convolution gets new weights and the normalisation becomes an identity. Returns the gain, (out channels,): what the
    convolution's own output is now multiplied by. Jacob et al., "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2. Raises BadTargetError for a pair that is none.
    """
    first, second = _pair(backbone, convolution, norm)
    first.weight, first.bias = folded(first, second)
    parent, _, leaf = norm.rpartition(".")
    setattr(backbone.get_submodule(parent), leaf, nn.Identity())
    gain = torch.rsqrt(cast(Tensor, second.running_var) + second.eps)
    return gain if second.weight is None else gain * second.weight.detach()


def folded(first: nn.Conv2d, second: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    """Returns the weight and the bias of one convolution that does what `first` and then `second` do in eval mode."""
    return fuse_conv_bn_weights(
        first.weight,
        first.bias,
        second.running_mean,  # type: ignore[arg-type]
        second.running_var,  # type: ignore[arg-type]
        second.eps,
        second.weight,
        second.bias,
    )


def _pair(backbone: nn.Module, convolution: str, norm: str) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    first, second = backbone.get_submodule(convolution), backbone.get_submodule(norm)
    if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)):
        raise BadTargetError(
            f"{convolution}, {norm}: no convolution and its normalisation; take what foldable_conv_bn() gives"
        )
    if second.running_mean is None or second.running_var is None:
        raise BadTargetError(f"{norm} keeps no running statistics to merge; take what foldable_conv_bn() gives")
    return first, second


AUTO_LAYER = "auto"
"""The name that stands for `middle_layer`."""


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Returns the submodule `name` of the user's own backbone, or its `middle_layer` for "auto".

    Raises BadTargetError with the near misses.
    """
    modules: dict[str, nn.Module] = dict(unwrap(model).named_modules())
    name = middle_layer(model) if name == AUTO_LAYER else name
    if name not in modules or not name:
        raise BadTargetError(f"the model has no layer {name!r}; {did_you_mean(name, [n for n in modules if n])}")
    return modules[name]


def middle_layer(model: nn.Module) -> str:
    """The name of a layer about halfway to the features: the second stage of a network in stages, else the middle block.

    A ResNet's `layer2`, timm's first stage of stride 8, the middle of a ViT's blocks, else the middle of the longest
    container. Raises BadTargetError for a model without layers of its own.
    """
    backbone = unwrap(model)
    modules = dict(backbone.named_modules())
    if "layer2" in modules:
        return "layer2"
    stages = [each for each in getattr(backbone, "feature_info", None) or () if each.get("module") in modules]
    if stages:
        strides = [each.get("reduction", 0) for each in stages]
        in_stages = len(set(strides)) > 1 and max(strides) >= _MIDDLE_STRIDE
        chosen = (
            next(i for i, stride in enumerate(strides) if stride >= _MIDDLE_STRIDE) if in_stages else len(stages) // 2
        )
        return str(stages[chosen]["module"])
    names = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Sequential | nn.ModuleList) and len(module) > 2
    ]
    # the outermost ones alone: a block within a stage is no step of the whole
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    name = max(outer, key=lambda each: len(modules[each]), default="")
    container = modules[name]
    children = [child for child, module in container.named_children() if next(module.parameters(), None) is not None]
    if not children:
        raise BadTargetError(f"{type(backbone).__name__} has no layer in its middle; name one: layer=NAME")
    return f"{name}.{children[(len(children) - 1) // 2]}".lstrip(".")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts every module in eval mode (no dropout, no moving statistics) for the block, then back as it was."""
    trained = [m for m in model.modules() if m.training]
    try:
        for module in trained:
            module.training = False
        yield
    finally:
        for module in trained:
            module.training = True


class _Output:
    value: Tensor


@contextmanager
def unseen() -> Iterator[None]:
    """Hides forward passes within the block from `capture` and `output_of`: those that try a model in the midst of its own."""
    token = _UNSEEN.set(True)
    try:
        yield
    finally:
        _UNSEEN.reset(token)


@contextmanager
def capture(model: nn.Module, layer: str) -> Iterator[_Output]:
    """Keeps the output of `layer`, at its first call within the block, as `.value`.

    Raises BadTargetError for a layer that does not exist.
    """
    output = _Output()

    def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
        if not (hasattr(output, "value") or _UNSEEN.get()):
            output.value = out

    handle = find_layer(model, layer).register_forward_hook(keep)
    try:
        yield output
    finally:
        handle.remove()


class _Reached(Exception):  # noqa: N818  # nothing went wrong
    """Carries the output of a layer out of the forward pass, which is then over."""

    def __init__(self, out: object) -> None:
        super().__init__()
        self.out = out


def output_of(model: nn.Module, layer: str, x: Tensor) -> object:
    """Returns what `layer` gives at its first call for `model(x)`; the layers behind it are not computed.

    None where the forward pass does not come by. Raises BadTargetError for a layer that does not exist.
    """

    def leave(_module: nn.Module, _args: object, out: object) -> None:
        if not _UNSEEN.get():
            raise _Reached(out)

    handle = find_layer(model, layer).register_forward_hook(leave)
    try:
        model(x)
    except _Reached as reached:
        return reached.out
    finally:
        handle.remove()
    return None
