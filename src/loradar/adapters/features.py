"""What the head of a classifier sees."""

from collections.abc import Sequence
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from loradar.adapters.heads import find_heads
from loradar.core.copying import copy_model
from loradar.core.errors import BadTargetError
from loradar.core.modules import Wrapper, unwrap
from loradar.core.types import Images

# what goes into each head in the forward pass under way: of this thread, and of this pass alone
_SEEN: ContextVar[dict[str, Tensor] | None] = ContextVar("_SEEN", default=None)


def feature_extractor(model: nn.Module, head: str | Sequence[str] = ()) -> nn.Module:
    """Returns a shared copy of `model` that gives what its head sees: (batch, features) instead of logits.

    For a timm ViT that is the class token after the last LayerNorm, for a ResNet the pooled last feature map; a map before
    a convolution that is the head is averaged over its positions. Heads with inputs of their own (a distilled ViT's) have
    these side by side, in the order of `find_heads`. Raises BadTargetError as `find_heads` does, and from the forward pass
    for a head that reads tokens, not one vector per image.
    """
    heads = find_heads(model, head)
    copied = copy_model(model, share=True)
    backbone = unwrap(copied)
    for name in heads:
        backbone.get_submodule(name).register_forward_pre_hook(_Tap(name))
    features = _BeforeHead(backbone, heads)
    if copied is backbone:
        return features
    around = copied
    while isinstance(around, Wrapper) and around.wrapped is not backbone:
        around = around.wrapped
    around.wrapped = features
    return copied


class _BeforeHead(Wrapper):
    def __init__(self, wrapped: nn.Module, heads: tuple[str, ...]) -> None:
        super().__init__()
        self.wrapped, self.heads = wrapped, heads
        self.training = wrapped.training

    def forward(self, x: Images) -> Tensor:
        seen: dict[str, Tensor] = {}
        token = _SEEN.set(seen)
        try:
            self.wrapped(x)
        finally:
            _SEEN.reset(token)
        found: list[Tensor] = []
        for name in self.heads:
            if name in seen and not any(seen[name] is one for one in found):
                found.append(seen[name])
        if not found:
            raise BadTargetError(
                f"the forward pass of {type(self.wrapped).__name__} comes by none of its heads ({', '.join(self.heads)}); name "
                "the layers that make the logits with head="
            )
        vectors = [_vector(value, type(self.wrapped).__name__) for value in found]
        return vectors[0] if len(vectors) == 1 else torch.cat(vectors, 1)


class _Tap:
    """A hook of a head that shows what goes into it; names and modules of the model stay as they are."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, _head: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen = _SEEN.get()
        if seen is not None:
            seen[self.name] = args[0]


def _vector(value: Tensor, model: str) -> Tensor:
    if value.ndim == 4:
        return value.mean((2, 3))
    if value.ndim != 2:
        raise BadTargetError(
            f"a head of {model} reads {value.ndim - 1} dimensions per image, of shape {tuple(value.shape)}: there is no one "
            "vector of features; take a model whose head reads one"
        )
    return value
