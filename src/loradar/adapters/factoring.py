"""A tuned model as an adapter of its base: the best low-rank factors of what the tuning changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt

import torch
from torch import Tensor, nn

from loradar.adapters.adapter import Adapter
from loradar.adapters.budget import ranks_within
from loradar.adapters.building import whole_copies
from loradar.adapters.card import Card, Norm
from loradar.adapters.delta import Delta
from loradar.adapters.fingerprint import fingerprint
from loradar.adapters.heads import find_heads
from loradar.adapters.init import check_rank, principal_factors
from loradar.adapters.layers import (
    STATISTICS,
    bias_name,
    find_affine_norms,
    find_norms,
    is_branch_equivalent,
    weight_name,
    weight_of,
)
from loradar.adapters.ranks import common_rank, largest_rank, ranks_of
from loradar.core.errors import BadConfigError, BadTargetError
from loradar.core.modules import Wrapper, unwrap
from loradar.core.ranks import parse_bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Factored:
    """An adapter made of a tuned model, and what it lost.

    `errors` are ||dW - B A|| / ||dW|| in the Frobenius norm, by layer, of the change dW of its weight; 1 for a layer that is
    left out. `error` is that of all changes together.
    """

    adapter: Adapter
    errors: Mapping[str, float]
    error: float


@dataclass(frozen=True, kw_only=True)
class _Changes:
    heads: tuple[str, ...]
    norm: Norm
    layers: tuple[str, ...]
    biases: frozenset[str]


def factor(
    base: nn.Module,
    tuned: nn.Module,
    *,
    rank: int | str | Mapping[str, int | str] | None = None,
    max_bytes: int | str | None = None,
    name: str = "factored",
) -> Factored:
    """An adapter that makes of `base` nearly what `tuned` is, a model of the same architecture; both stay as they are.

    The change of every Linear, Conv2d and fused attention weight becomes its truncated singular value decomposition, taken
    in float64 (Eckart and Young, 1936). Biases that differ are kept exactly, and so are the head and the normalisation.
    `rank` or `max_bytes` is as in `init_adapter`. Raises BadTargetError where the architectures differ, and, by name, for a
    parameter that differs and is none of these; BadConfigError where nothing differs.

    >>> from loradar.models import new_base
    >>> base, tuned = (new_base("timm:test_resnet", num_classes=2, seed=seed).model for seed in range(2))
    >>> factor(base, tuned, rank="<=256").error < 1e-6
    True
    """
    if (rank is None) == (max_bytes is None):
        raise BadConfigError(f"rank is {rank!r} and max_bytes is {max_bytes!r}; expected one of the two")
    backbone, other = unwrap(base), unwrap(tuned)
    changes = _changes(base, tuned)
    device = next(backbone.parameters()).device
    plain = {layer: is_branch_equivalent(backbone, layer) for layer in changes.layers}
    groups = dict.fromkeys(changes.layers, 1)
    owned = {name: t.to(device) for name, t in whole_copies(other, changes.heads, changes.norm).items()}
    # beside a delta where PEFT can read it, which takes all deltas or none to have one; else as a tensor of the layer
    beside = {}
    if changes.biases and all(plain.values()):
        beside = {layer: _bias(other, layer, device) - _bias(backbone, layer, device) for layer in changes.layers}
    else:
        owned |= {_bias_name(backbone, layer): _bias(other, layer, device) for layer in sorted(changes.biases)}
    if max_bytes is not None:
        held = owned | {f"{layer}.lora_B.bias": bias for layer, bias in beside.items()}
        ranks = ranks_within(backbone, groups, held, parse_bytes(max_bytes))
    else:
        ranks = ranks_of(backbone, groups, rank or 0)
    deltas: dict[str, Delta] = {}
    lost, whole = {}, {}
    for layer in changes.layers:
        change = (_matrix(other, layer) - _matrix(backbone, layer)).flatten(1)
        whole[layer], rest = float(change.square().sum()), change
        if layer in ranks:
            check_rank(
                ranks[layer], largest_rank(backbone, layer), f"{layer}.{weight_name(backbone.get_submodule(layer))}"
            )
            a, b = principal_factors(change, ranks[layer])
            rest = change - b.double() @ a.double()
            deltas[layer] = Delta(
                a=a.to(device).requires_grad_(),
                b=b.to(device).requires_grad_(),
                shape=tuple(weight_of(backbone, layer).shape),
                branch_equivalent=plain[layer],
                bias=beside[layer].requires_grad_() if layer in beside else None,
            )
        lost[layer] = float(rest.square().sum())
    error = _ratio(sum(lost.values()), sum(whole.values()))
    common = common_rank(ranks)
    card = Card(
        name=name,
        base_fingerprint=fingerprint(base),
        target_modules=tuple(ranks),
        rank=common,
        lora_alpha=float(common),
        init="factored",
        head=changes.heads[0] if changes.heads else "",
        modules_to_save=changes.heads,
        norm=changes.norm,
        data={"factored": {"relative_error": error}},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Factored(
        adapter=Adapter(deltas=deltas, modules_to_save=owned, card=card),
        errors={layer: _ratio(lost[layer], whole[layer]) for layer in changes.layers},
        error=error,
    )


def _changes(base: nn.Module, tuned: nn.Module) -> _Changes:
    """What differs, by what an adapter has for it. Raises BadTargetError for all else."""
    backbone = unwrap(base)
    names = _differing(backbone, unwrap(tuned))
    _check_wrappers(base, tuned)
    if not names:
        raise BadConfigError("the tuned model has the weights of the base; expected one that differs")
    heads, moving, affine = find_heads(base), find_norms(base), find_affine_norms(base)
    changed_heads, layers, biases = set[str](), set[str](), set[str]()
    has_statistics = has_affine = False
    refused = []
    for name in names:
        layer, _, leaf = name.rpartition(".")
        module = backbone.get_submodule(layer)
        is_layer = isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention)
        if layer in heads:
            changed_heads.add(layer)
        elif layer in affine and leaf not in STATISTICS:
            has_affine = True
        elif layer in moving:
            has_statistics = True
        elif is_layer and leaf == weight_name(module):
            layers.add(layer)
        elif is_layer and name == _bias_name(backbone, layer):
            layers.add(layer)
            biases.add(layer)
        else:
            refused.append(name)
    if refused:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise BadTargetError(
            f"the tuned model differs in {', '.join(refused[:5])}{more}, which no adapter carries; expected changes of Linear "
            "and Conv2d layers, the normalisation and the head alone"
        )
    order = [name for name, _ in backbone.named_modules()]
    norms: dict[tuple[bool, bool], Norm] = {
        (False, False): "frozen",
        (True, False): "statistics",
        (False, True): "affine",
        (True, True): "owned",
    }
    return _Changes(
        heads=tuple(name for name in heads if name in changed_heads),
        norm=norms[has_statistics, has_affine],
        layers=tuple(name for name in order if name in layers),
        biases=frozenset(biases),
    )


def _differing(backbone: nn.Module, other: nn.Module) -> list[str]:
    """Names of the tensors with other values. Raises BadTargetError for another architecture."""
    own, theirs = backbone.state_dict(), other.state_dict()
    if odd := own.keys() ^ theirs.keys():
        raise BadTargetError(
            f"the tuned model is of another architecture: {min(odd)} is in one of the two alone; expected that of the base"
        )
    for name, tensor in own.items():
        if tensor.shape != theirs[name].shape:
            raise BadTargetError(
                f"the tuned model has {name} of {tuple(theirs[name].shape)}, the base {tuple(tensor.shape)}; expected the "
                "same architecture, classes included"
            )
    counters = "num_batches_tracked"
    return [n for n, t in own.items() if not n.endswith(counters) and not torch.equal(t, theirs[n].to(t.device))]


def _check_wrappers(base: nn.Module, tuned: nn.Module) -> None:
    own, theirs = _of_wrappers(base), _of_wrappers(tuned)
    for name in own.keys() & theirs.keys():
        if not torch.equal(own[name], theirs[name].to(own[name].device)):
            raise BadTargetError(f"the tuned model normalises images otherwise ({name}); expected that of the base")


def _of_wrappers(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    while isinstance(model, Wrapper):
        found |= dict(model.named_buffers(recurse=False))
        model = model.wrapped
    return found


def _bias_name(backbone: nn.Module, layer: str) -> str:
    return f"{layer}.{bias_name(backbone.get_submodule(layer))}"


def _bias(backbone: nn.Module, layer: str, device: torch.device) -> Tensor:
    """The bias of a layer; zeros where it has none."""
    own = getattr(backbone.get_submodule(layer), _bias_name(backbone, layer).rpartition(".")[2])
    if isinstance(own, Tensor):
        return own.detach().to(device, copy=True)
    return torch.zeros(len(weight_of(backbone, layer)), device=device)


def _matrix(backbone: nn.Module, layer: str) -> Tensor:
    return weight_of(backbone, layer).detach().to("cpu", torch.float64)


def _ratio(lost: float, whole: float) -> float:
    return sqrt(lost / whole) if whole else 0.0
