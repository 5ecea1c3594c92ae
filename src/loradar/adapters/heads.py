"""Which layers make the logits: the model is asked first, then the conventions of its library, then it is tried."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from loradar.core.copying import copy_model
from loradar.core.errors import BadConfigError, BadTargetError, did_you_mean
from loradar.core.modules import check_logits, unwrap
from loradar.core.probing import find_input

_NAMES = ("classifier", "fc", "head", "heads", "cls_classifier", "distillation_classifier", "classifier_distill")
"""What torchvision and transformers call the module that ends in the logits, and what most people call theirs."""
_LIBRARIES = ("torchvision.models.", "transformers.", "loradar.")


def find_heads(model: nn.Module, head: str | Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the names of the layers that make the logits, relative to the user's own backbone, in its order.

    They are Linear layers or convolutions; a distilled model has several. `head` names them where the user knows. Else
    timm models are asked (`get_classifier`), torchvision's and transformers' have theirs by convention, and any other
    model is tried on small images: a head is the last layer with weights on a way to the logits. Raises BadTargetError
    for a name that is no such layer, for a model without a head, and where it cannot be told.
    """
    backbone = unwrap(model)
    if head:
        return _named(backbone, (head,) if isinstance(head, str) else tuple(head))
    found = _asked(backbone) or _conventional(backbone) or _tried(backbone) or _only(backbone)
    return tuple(name for name, module in backbone.named_modules() if module in found)


def find_head(model: nn.Module, head: str | Sequence[str] = ()) -> str:
    """Returns the name of the one layer that makes the logits; see `find_heads`.

    Raises BadTargetError where there are several.
    """
    heads = find_heads(model, head)
    if len(heads) > 1:
        raise BadTargetError(
            f"{type(unwrap(model)).__name__} has {len(heads)} heads ({', '.join(heads)}) and this needs a model with one; "
            "build it without distillation, or with a single head"
        )
    return heads[0]


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def _outputs(module: nn.Module) -> int:
    return module.out_features if isinstance(module, nn.Linear) else int(module.out_channels)  # type: ignore[arg-type]


def _named(backbone: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    layers = [name for name, module in backbone.named_modules() if _is_layer(module)]
    for name in names:
        if name not in layers:
            raise BadTargetError(
                f"head={name!r} is no Linear or convolution of the model; {did_you_mean(name, layers)}"
            )
    return tuple(name for name in layers if name in names)


def _asked(backbone: nn.Module) -> set[nn.Module]:
    """What timm's `get_classifier` answers, down to its layers; empty where there is nobody to ask."""
    ask = getattr(backbone, "get_classifier", None)
    if not callable(ask):
        return set()
    try:
        answer = ask()
    except Exception:  # a method of that name that is another library's
        return set()
    answers = [m for m in (answer if isinstance(answer, tuple | list) else (answer,)) if isinstance(m, nn.Module)]
    if answers and not any(_is_layer(m) for one in answers for m in one.modules()):
        raise BadTargetError(
            f"{type(backbone).__name__} was built without a head; build it with num_classes=N (a spec: "
            "timm:NAME:num_classes=10), or set head=False"
        )
    classes = getattr(backbone, "num_classes", None)
    # VOLO votes with a second head, which it does not name
    also = [m for n, m in backbone.named_children() if n == "aux_head" and _is_layer(m) and _outputs(m) == classes]
    return set(chain.from_iterable(_last(one, classes) for one in (*answers, *also)))


def _last(module: nn.Module, classes: int | None) -> list[nn.Module]:
    """The layers of `module` that give `classes` values; the last layer where none does."""
    layers = [m for m in module.modules() if _is_layer(m)]
    return [m for m in layers if _outputs(m) == classes] or layers[-1:]


def _conventional(backbone: nn.Module) -> set[nn.Module]:
    if not type(backbone).__module__.startswith(_LIBRARIES):
        return set()
    parts = [part for name in _NAMES if isinstance(part := getattr(backbone, name, None), nn.Module)]
    found = {layer for part in parts for layer in _last(part, None)}
    if parts and not found:
        raise BadTargetError(
            f"{type(backbone).__name__} has no layer in its head, a {type(parts[0]).__name__}; put a Linear there, or set "
            "head=False"
        )
    return found


@dataclass(frozen=True)
class _Call:
    layer: nn.Module
    into: Tensor
    out: Tensor


def _tried(backbone: nn.Module) -> set[nn.Module]:
    """The last layers with weights on each way to the logits, of a forward pass of a copy; empty where none works."""
    x = find_input(backbone)
    if x is None:
        return set()
    trial = copy_model(backbone, share=True).eval().requires_grad_(True)
    originals = dict(zip(trial.modules(), backbone.modules(), strict=True))
    calls: list[_Call] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(out, Tensor):
            calls.append(_Call(originals[layer], args[0], out))

    for module in trial.modules():
        if _is_layer(module):
            module.register_forward_hook(keep)
    with torch.enable_grad():
        try:
            logits = check_logits(trial(x))
        except BadConfigError as error:
            raise BadTargetError(f"no head is known: {error}; or head=False") from error
    if not logits.requires_grad:
        return set()
    classes = logits.shape[1]
    ahead = [call for call in calls if _depends(logits, call.out)]
    return {
        call.layer
        for i, call in enumerate(ahead)
        if _outputs(call.layer) == classes and not any(_depends(later.into, call.out) for later in ahead[i + 1 :])
    }


def _depends(value: Tensor, on: Tensor) -> bool:
    if value is on:
        return True
    if not (value.requires_grad and on.requires_grad):
        return False
    (grad,) = torch.autograd.grad(value.sum(), on, retain_graph=True, allow_unused=True)
    return grad is not None


def _only(backbone: nn.Module) -> set[nn.Module]:
    """Without a forward pass: the one module with a usual name, or the only Linear. Raises BadTargetError otherwise."""
    usual = [part for name, part in backbone.named_children() if name in _NAMES and _last(part, None)]
    linears = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    if len(usual) == 1:
        return set(_last(usual[0], None))
    if len(linears) == 1:
        return set(linears.values())
    kind = type(backbone).__name__
    if not linears:
        raise BadTargetError(
            f"{kind} has no head that is a Linear or a convolution; expected a classifier, or head=False"
        )
    raise BadTargetError(
        f"which layer of {kind} makes the logits is not known; say head=NAME, one of {', '.join(linears)}"
    )
