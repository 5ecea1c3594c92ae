"""Which layers get a delta: presets that go by a model's structure, or patterns over its layers' names."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from loradar.adapters.layers import children, find_head, weight_of
from loradar.core.errors import BadTargetError, did_you_mean
from loradar.core.modules import unwrap

_QUERIES = {"qkv", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj", "query", "key", "value"}


def find_targets(model: nn.Module, patterns: str | Sequence[str]) -> tuple[str, ...]:
    """The names of the Conv2d and Linear layers that `patterns` mean, in the model's order.

    Names are relative to the innermost backbone. A pattern is a preset (see PRESETS) or a shell pattern over names,
    where `*` matches dots too: "layer*.conv1". No patterns mean no layers. Raises BadTargetError, with the near misses,
    where a pattern matches nothing, and for a layer whose forward is never called (inside nn.MultiheadAttention).
    """
    backbone = unwrap(model)
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found |= set(_preset(backbone, pattern) if pattern in PRESETS else _matching(backbone, pattern))
    for name in found:
        weight_of(backbone, name)
    return tuple(name for name, _ in backbone.named_modules() if name in found)


def _preset(backbone: nn.Module, name: str) -> list[str]:
    found = PRESETS[name](backbone)
    if found:
        return found
    if "attention" in name and any(isinstance(m, nn.MultiheadAttention) for m in backbone.modules()):
        raise BadTargetError(
            f"{name!r}: the attention of {type(backbone).__name__} is nn.MultiheadAttention, whose forward never calls "
            "its layers; target the 'mlp' instead, or use a timm ViT"
        )
    others = ", ".join(repr(n) for n, find in PRESETS.items() if find(backbone))
    raise BadTargetError(f"{type(backbone).__name__} has no layers for {name!r}; presets that fit: {others or 'none'}")


def _matching(backbone: nn.Module, pattern: str) -> list[str]:
    names = [n for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    found = [n for n in names if fnmatchcase(n, pattern)]
    if not found:
        raise BadTargetError(
            f"no Conv2d or Linear of {type(backbone).__name__} matches {pattern!r}; "
            f"{did_you_mean(pattern, [*PRESETS, *names])}"
        )
    return found


def _block_conv1(backbone: nn.Module) -> list[str]:
    # a residual block, in torchvision and timm alike, is what has a conv1 and a conv2 (the stem has a conv1 alone)
    return [
        f"{name}.conv1"
        for name, _, parts in children(backbone)
        if name and isinstance(parts.get("conv1"), nn.Conv2d) and isinstance(parts.get("conv2"), nn.Conv2d)
    ]


def _block_conv1_and_stem(backbone: nn.Module) -> list[str]:
    blocks = _block_conv1(backbone)
    return blocks and [*_all_conv(backbone)[:1], *blocks]


def _all_conv(backbone: nn.Module) -> list[str]:
    return [n for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d)]


def _attention(backbone: nn.Module) -> list[str]:
    found = []
    for name, _, parts in children(backbone):
        linears = [part for part, module in parts.items() if isinstance(module, nn.Linear)]
        if _QUERIES & set(linears):
            found += [f"{name}.{part}".lstrip(".") for part in linears]
    return found


def _mlp(backbone: nn.Module) -> list[str]:
    head, found = _head(backbone), []
    for name, module, parts in children(backbone):
        linears = [f"{name}.{part}".lstrip(".") for part, m in parts.items() if isinstance(m, nn.Linear)]
        # timm's Mlp has fc1 and fc2; torchvision's is a Sequential, and so is VGG's classifier, which holds the head
        is_mlp = "fc2" in parts or isinstance(module, nn.Sequential)
        if is_mlp and len(linears) > 1 and head not in linears:
            found += linears
    return found


def _all_linear(backbone: nn.Module) -> list[str]:
    unused = {
        f"{name}.{part}".lstrip(".")
        for name, module, parts in children(backbone)
        if isinstance(module, nn.MultiheadAttention)
        for part in parts
    }
    linears = [n for n, m in backbone.named_modules() if isinstance(m, nn.Linear)]
    return [n for n in linears if n not in unused and n != _head(backbone)]


def _head(backbone: nn.Module) -> str:
    try:
        return find_head(backbone)
    except BadTargetError:
        return ""


PRESETS: dict[str, Callable[[nn.Module], list[str]]] = {
    "block-conv1": _block_conv1,
    "block-conv1+stem": _block_conv1_and_stem,
    "all-conv": _all_conv,
    "attention": _attention,
    "mlp": _mlp,
    "attention+mlp": lambda backbone: (found := _attention(backbone)) and [*found, *_mlp(backbone)],
    "all-linear": _all_linear,
}
"""block-conv1: the first convolution of each residual block; +stem: the model's first convolution as well.
attention: the projections of the attention modules; mlp: the Linear layers of the transformer's MLPs.
all-conv, all-linear: every one that forward calls, but the head."""
