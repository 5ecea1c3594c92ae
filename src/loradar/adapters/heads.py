"""Which layers make the logits: the model is asked first, then the conventions of its library, then it is tried."""

from collections.abc import Iterable, Sequence
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


def _tried(backbone: nn.Module) -> set[nn.Module]:
    """What makes the logits of a copy of the model on small images; empty where it takes none, or gives no gradients.

    From the last call backwards: what still has a gradient once the outputs of those found are cut is a maker as well.
    Raises BadTargetError, by its name, for a maker that can be no head.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = find_input(backbone)
        if x is None:
            return set()
        trial = _Trial(backbone, x)
        if not trial.logits.requires_grad:
            return set()
        layers, odd = trial.makers()
        heads = [layer for layer in layers if _outputs(layer) == trial.classes]
        if not odd and layers and (heads == layers or len(layers) == 1):
            return {trial.originals[layer] for layer in layers}
        if heads and trial.is_constant_without(heads):
            return {trial.originals[layer] for layer in heads}
    named = [
        f"{name}, a {type(m).__name__}" for name, m in trial.model.named_modules() if m in layers and m not in heads
    ]
    raise BadTargetError(
        f"the logits of {type(backbone).__name__} are made by {'; '.join([*odd, *named])}; an adapter owns Linear layers and "
        f"convolutions of {trial.classes} outputs: say head=NAME, or head=False"
    )


class _Trial:
    """A copy of a model, run on `x` again and again with outputs of some layers cut from what made them."""

    def __init__(self, backbone: nn.Module, x: Tensor) -> None:
        self.model, self.x = copy_model(backbone, share=True).eval(), x
        for parameter in self.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        self.originals = dict(zip(self.model.modules(), backbone.modules(), strict=True))
        self.calls: dict[nn.Module, None] = {}
        for module in self.model.modules():
            if _is_layer(module) or (_matrices(module) and not any(module.children())):
                module.register_forward_hook(self._note)
        self._cut: set[nn.Module] = set()
        self._is_zero = False
        self.logits = self._run(())
        self.classes = self.logits.shape[1]

    def _note(self, layer: nn.Module, _args: object, out: Any) -> Any:
        self.calls.pop(layer, None)
        self.calls[layer] = None
        if layer not in self._cut or not isinstance(out, Tensor):
            return None
        return torch.zeros_like(out) if self._is_zero else out.detach()

    def _run(self, cut: Iterable[nn.Module], *, zero: bool = False) -> Tensor:
        self._cut, self._is_zero = set(cut), zero
        try:
            return check_logits(self.model(self.x))
        except BadConfigError as error:
            raise BadTargetError(f"no head is known: {error}; or head=False") from error

    def _beyond(self, cut: Iterable[nn.Module]) -> set[nn.Parameter]:
        """The matrices that the logits depend on, other than through the outputs that are cut."""
        logits = self._run(cut)
        ours = [p for p in self.model.parameters() if _is_matrix(p) and p.numel() > self.classes]
        if not logits.requires_grad:
            return set()
        grads = torch.autograd.grad(logits.sum(), ours, allow_unused=True)
        return {p for p, grad in zip(ours, grads, strict=True) if grad is not None}

    def makers(self) -> tuple[list[nn.Module], list[str]]:
        """Layers, and whatever else in words: matrices that no call is known of, modules of other kinds."""
        calls = list(self.calls)
        owners = {parameter: name for name, parameter in self.model.named_parameters()}
        odd = [f"{owners[parameter]}, used without a layer" for parameter in self._beyond(calls)]
        names = {module: name for name, module in self.model.named_modules()}
        found: list[nn.Module] = []
        cut: list[nn.Module] = []
        left = self._beyond(()) if not odd else set()
        while left:
            last = next((call for call in reversed(calls) if call not in cut and left & set(_matrices(call))), None)
            if last is None:
                break
            cut.append(last)
            if _is_layer(last):
                found.append(last)
            else:
                odd.append(f"{names[last]}, a {type(last).__name__}")
            left = self._beyond(cut)
        return found, odd

    def is_constant_without(self, layers: Iterable[nn.Module]) -> bool:
        """Whether all images have the same logits once these layers give zeros."""
        with torch.no_grad():
            first, second = self._run(layers, zero=True)
        return bool(torch.equal(first, second))


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and parameter.is_floating_point()


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if _is_matrix(parameter)]


def _only(backbone: nn.Module) -> set[nn.Module]:
    """Without a forward pass: the one module with a usual name, or the only Linear. Raises BadTargetError otherwise."""
    usual = [part for name, part in backbone.named_children() if name in _NAMES and _last(part, None)]
    linears = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    if len(usual) == 1:
        return set(_last(usual[0], None))
    plain = {p for m in backbone.modules() if _is_layer(m) for p in m.parameters()}
    if len(linears) == 1 and all(parameter in plain for parameter in _matrices(backbone)):
        return set(linears.values())
    kind = type(backbone).__name__
    if not linears:
        raise BadTargetError(
            f"{kind} has no head that is a Linear or a convolution; expected a classifier, or head=False"
        )
    raise BadTargetError(
        f"which layer of {kind} makes the logits is not known; say head=NAME, one of {', '.join(linears)}"
    )
