"""Properties of layers: their weight, its shape, whether a branch beside it is equivalent, running statistics."""

import inspect
import re
from collections.abc import Iterator

from torch import Tensor, nn

from loradar.core.errors import BadTargetError, did_you_mean
from loradar.core.modules import unwrap

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""The buffers that a normalisation layer moves in train mode."""


def is_branch_equivalent(backbone: nn.Module, name: str) -> bool:
    """Whether a second branch B(A x) beside layer `name` equals the layer with its weight changed.

    Not so for a subclass (it may transform its weight first), for groups, and for padding that is not zeros. Nor where
    the parent holds parameters of its own: attention modules that do (BEiT's, Swin's) hand the layer's weight to a
    function, and the layer's own forward is never called. A dilated convolution is not plain either: a branch would
    be right, but PEFT makes its branch without the dilation.
    """
    parent = backbone.get_submodule(name.rpartition(".")[0])
    return not parent._parameters and is_plain_layer(backbone.get_submodule(name))


def is_plain_layer(module: nn.Module) -> bool:
    """Whether the own forward of `module` uses its weight as a Linear, or as a Conv2d that PEFT has a counterpart of."""
    if type(module) is nn.Conv2d:
        return module.groups == 1 and module.padding_mode == "zeros" and set(module.dilation) == {1}
    return type(module) is nn.Linear


def is_lost_beside(backbone: nn.Module, name: str) -> bool:
    """Whether the parent of the layer `name` uses its weight without calling it, so that a branch beside it is lost.

    An nn.MultiheadAttention does, and classes whose source says so (the attention of BEiT and of SwinV2).
    """
    parent_name, _, leaf = name.rpartition(".")
    parent = backbone.get_submodule(parent_name)
    if isinstance(parent, nn.MultiheadAttention):
        return True
    try:
        source = inspect.getsource(type(parent))
    except (OSError, TypeError):  # a class made in a shell has no source
        return False
    # not where it asks the weight for its kind alone
    pattern = rf"\bself\.{re.escape(leaf)}\.weight\b(?!\.(device|dtype|shape|data|numel|requires_grad)\b)"
    return re.search(pattern, source) is not None


def dense_shape(module: nn.Module) -> tuple[int, ...]:
    """Returns the shape of the weight of `module`; of a grouped convolution as one that is not grouped has it."""
    weight: Tensor = getattr(module, weight_name(module))
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    return (len(weight), groups * weight.shape[1], *weight.shape[2:])


def dense_weight(module: nn.Conv2d) -> Tensor:
    """Returns the weight of a grouped convolution as one that is not grouped has it, with zeros across the groups."""
    weight = module.weight.detach()
    dense = weight.new_zeros(dense_shape(module))
    rows, columns = len(weight) // module.groups, weight.shape[1]
    for group in range(module.groups):
        own = slice(group * rows, (group + 1) * rows)
        dense[own, group * columns : (group + 1) * columns] = weight[own]
    return dense


def weight_name(module: nn.Module) -> str:
    """Returns what the weight that a delta changes is called: `in_proj_weight` in an nn.MultiheadAttention, else `weight`."""
    return "in_proj_weight" if isinstance(module, nn.MultiheadAttention) else "weight"


def bias_name(module: nn.Module) -> str:
    """Returns what the bias beside that weight is called."""
    return weight_name(module).replace("weight", "bias")


def weight_of(backbone: nn.Module, name: str) -> Tensor:
    """Returns the weight of layer `name`: of a Conv2d, a Linear, or the fused one of an nn.MultiheadAttention.

    Raises BadTargetError where a delta cannot be put on it.
    """
    modules = dict(backbone.named_modules())
    if name not in modules:
        raise BadTargetError(f"the model has no layer {name!r}; {did_you_mean(name, [n for n in modules if n])}")
    module = modules[name]
    if not isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
        raise BadTargetError(f"{name} is a {type(module).__name__}; a delta goes on a Conv2d or a Linear")
    weight = module._parameters.get(weight_name(module))
    if not isinstance(weight, nn.Parameter):
        raise BadTargetError(f"the weight of {name} is parametrized or not a parameter; expected a plain one")
    return weight


def fused_matrices(backbone: nn.Module, name: str) -> int:
    """Returns how many matrices stand one above the other in the weight of layer `name`: 3 for a fused query, key and value,
    2 for a fused key and value (as SigLIP pools by)."""
    module = backbone.get_submodule(name)
    if isinstance(module, nn.MultiheadAttention):
        return 3
    count = {"qkv": 3, "kv": 2}.get(name.rpartition(".")[2], 1)
    return count if isinstance(module, nn.Linear) and module.out_features == count * module.in_features else 1


def find_norms(model: nn.Module) -> tuple[str, ...]:
    """Returns the names of the modules with running statistics, relative to the user's own backbone."""
    return tuple(n for n, m in unwrap(model).named_modules() if has_statistics(m))


def find_affine_norms(model: nn.Module) -> tuple[str, ...]:
    """Returns the names of the normalisation layers with gains or biases, relative to the user's own backbone.

    Batch, layer, group, instance and RMS normalisation, and classes of other libraries that are named so: what they have in
    common is `norm` in the name of the class, and parameters of one dimension.
    """
    return tuple(name for name, module in unwrap(model).named_modules() if _has_affine(module))


def _has_affine(module: nn.Module) -> bool:
    own = list(module.parameters(recurse=False))
    return "norm" in type(module).__name__.lower() and bool(own) and all(p.ndim == 1 for p in own)


def has_statistics(module: nn.Module) -> bool:
    return isinstance(module._buffers.get("running_mean"), Tensor)


def children(backbone: nn.Module) -> Iterator[tuple[str, nn.Module, dict[str, nn.Module]]]:
    """Yields every module with its name and its direct children."""
    for name, module in backbone.named_modules():
        yield name, module, dict(module.named_children())
