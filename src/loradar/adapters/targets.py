"""Which layers get a delta: presets that go by a model's structure, or patterns over its layers' names."""

from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from loradar.adapters.heads import find_heads
from loradar.adapters.layers import children, weight_of
from loradar.core.errors import BadTargetError, did_you_mean
from loradar.core.modules import unwrap

_QUERIES = {"qkv", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj", "query", "key", "value"}


def find_targets(
    model: nn.Module, patterns: str | Sequence[str] = "auto", *, head: str | Sequence[str] = ()
) -> tuple[str, ...]:
    """Returns the names of the layers that `patterns` mean, in the model's order.

    Names are relative to the user's own backbone. A pattern is a preset (see PRESETS) or a shell pattern over names, where
    `*` matches dots too: "layer*.conv1". Layers are Conv2d, Linear, and nn.MultiheadAttention for its fused weight. No
    patterns mean no layers. Presets leave the head out (see `find_heads`). Raises BadTargetError, with the near misses,
    where a pattern matches nothing.
    """
    backbone = unwrap(model)
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found |= set(_preset(backbone, pattern, head) if pattern in PRESETS else _matching(backbone, pattern))
    for name in found:
        weight_of(backbone, name)
    return tuple(name for name, _ in backbone.named_modules() if name in found)


def target_share(model: nn.Module, targets: Iterable[str], *, head: str | Sequence[str] = ()) -> float:
    """Returns the share of the parameters below the head that belong to the weights of the layers `targets`, 0 to 1."""
    backbone = unwrap(model)
    return _share(backbone, targets, _heads(backbone, head))


def _share(backbone: nn.Module, targets: Iterable[str], heads: Collection[str]) -> float:
    below = sum(p.numel() for name, p in backbone.named_parameters() if name.rpartition(".")[0] not in heads)
    return sum(weight_of(backbone, name).numel() for name in targets if name not in heads) / max(below, 1)


def _preset(backbone: nn.Module, name: str, head: str | Sequence[str]) -> list[str]:
    heads = _heads(backbone, head)
    found = PRESETS[name](backbone, heads)
    if found:
        return found
    others = ", ".join(repr(n) for n, find in PRESETS.items() if find(backbone, heads))
    raise BadTargetError(f"{type(backbone).__name__} has no layers for {name!r}; presets that fit: {others or 'none'}")


def _heads(backbone: nn.Module, head: str | Sequence[str]) -> tuple[str, ...]:
    try:
        return find_heads(backbone, head)
    except BadTargetError:
        if head:
            raise
        return ()


def _matching(backbone: nn.Module, pattern: str) -> list[str]:
    names = [n for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.MultiheadAttention)]
    found = [n for n in names if fnmatchcase(n, pattern)]
    if not found:
        raise BadTargetError(
            f"no Conv2d or Linear of {type(backbone).__name__} matches {pattern!r}; "
            f"{did_you_mean(pattern, [*PRESETS, *names])}"
        )
    return found


_LEAST_SHARE = 0.15
"""Of the parameters: what the first convolutions of the blocks must cover to be the automatic choice."""
_MOST_LINEAR = 0.5
_LEAST_SIDES = (16, 4, 1)
"""A weight whose smaller side is below the first of these has little that a low rank could spare."""


def _auto(backbone: nn.Module, heads: Collection[str]) -> list[str]:
    blocks = _block_conv1_and_stem(backbone, heads)
    is_resnet = all(isinstance(getattr(backbone, name, None), nn.Module) for name in ("layer1", "layer2", "layer3"))
    if blocks and (is_resnet or _share(backbone, blocks, heads) >= _LEAST_SHARE):
        return blocks
    linear = _dense(backbone, [n for n in _all_linear(backbone, heads) if not _is_auxiliary(n)])
    if _attention(backbone, heads) and _share(backbone, linear, heads) >= _MOST_LINEAR:
        return linear
    return _all(backbone, heads)


def _all(backbone: nn.Module, heads: Collection[str]) -> list[str]:
    every = [*_all_linear(backbone, heads), *_all_conv(backbone, heads)]
    return _dense(backbone, [n for n in every if not _is_auxiliary(n) and not _is_depthwise(backbone.get_submodule(n))])


def _dense(backbone: nn.Module, names: list[str]) -> list[str]:
    for least in _LEAST_SIDES:
        found = [n for n in names if min(len(w := weight_of(backbone, n)), w[0].numel()) >= least]
        if found:
            return found
    return []


def _is_auxiliary(name: str) -> bool:
    """Whether the layer is of a classifier that helps in training alone, as GoogLeNet and Inception have them."""
    return name.lower().startswith("aux")


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups > 1 and module.groups == module.in_channels


def _block_conv1(backbone: nn.Module, heads: Collection[str]) -> list[str]:  # noqa: ARG001
    # a residual block, in torchvision and timm alike, is what has a conv1 and a conv2 (the stem has a conv1 alone)
    return [
        f"{name}.conv1"
        for name, _, parts in children(backbone)
        if name and isinstance(parts.get("conv1"), nn.Conv2d) and isinstance(parts.get("conv2"), nn.Conv2d)
    ]


def _block_conv1_and_stem(backbone: nn.Module, heads: Collection[str]) -> list[str]:
    blocks = _block_conv1(backbone, heads)
    return blocks and [*_all_conv(backbone, heads)[:1], *blocks]


def _all_conv(backbone: nn.Module, heads: Collection[str]) -> list[str]:
    return [n for n, m in backbone.named_modules() if isinstance(m, nn.Conv2d) and n not in heads]


def _attention(backbone: nn.Module, heads: Collection[str]) -> list[str]:
    found = []
    for name, module, parts in children(backbone):
        linears = [part for part, m in parts.items() if isinstance(m, nn.Linear)]
        if isinstance(module, nn.MultiheadAttention):
            found += [name] if module.in_proj_weight is not None else []
        elif not _QUERIES & set(linears):
            continue
        found += [f"{name}.{part}".lstrip(".") for part in linears]
    return [name for name in found if name not in heads]


def _mlp(backbone: nn.Module, heads: Collection[str]) -> list[str]:
    found = []
    for name, module, parts in children(backbone):
        linears = [f"{name}.{part}".lstrip(".") for part, m in parts.items() if isinstance(m, nn.Linear)]
        # timm's Mlp has fc1 and fc2; torchvision's is a Sequential, and so is VGG's classifier, which holds the head
        is_mlp = "fc2" in parts or isinstance(module, nn.Sequential)
        if is_mlp and len(linears) > 1 and not set(heads) & set(linears):
            found += linears
    return found


def _all_linear(backbone: nn.Module, heads: Collection[str]) -> list[str]:
    attentions = [n for n, m in backbone.named_modules() if isinstance(m, nn.MultiheadAttention)]
    fused = [n for n in attentions if backbone.get_submodule(n).in_proj_weight is not None]
    return [*fused, *(n for n, m in backbone.named_modules() if isinstance(m, nn.Linear) and n not in heads)]


def _attention_and_mlp(backbone: nn.Module, heads: Collection[str]) -> list[str]:
    attention = _attention(backbone, heads)
    return attention and [*attention, *_mlp(backbone, heads)]


PRESETS: dict[str, Callable[[nn.Module, Collection[str]], list[str]]] = {
    "auto": _auto,
    "all": _all,
    "block-conv1": _block_conv1,
    "block-conv1+stem": _block_conv1_and_stem,
    "all-conv": _all_conv,
    "attention": _attention,
    "mlp": _mlp,
    "attention+mlp": _attention_and_mlp,
    "all-linear": _all_linear,
}
"""auto: block-conv1+stem for a ResNet and what is built alike; the linear layers of a transformer; for all others `all`.
all: every layer but the head, depthwise convolutions and those too small for a low rank.
block-conv1: the first convolution of each residual block; +stem: the model's first convolution as well.
attention: the projections of the attention modules; mlp: the Linear layers of the transformer's MLPs.
all-conv, all-linear: every one but the head."""
