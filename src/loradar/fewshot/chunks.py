"""Passes many images through a model in bounded memory, with and without a gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loradar.adapters.layers import has_statistics
from loradar.core.types import Images

_MEMORY, _SHARE = 8 * 2**30, 1 / 2
"""Bytes of memory that every task fits, and the share that a pass may keep for its gradient: the rest is for weights, images,
what one layer needs for a moment, and what the allocator holds back. A GPU counts as large as it is, not by what is free: that
changes from run to run, and with it how sums are rounded."""
_LIMIT: ContextVar[tuple[float | None, int]] = ContextVar("_LIMIT", default=(None, 1))
"""Another number of bytes, if any, and how many models share them."""
_KEPT: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], int]] = WeakKeyDictionary()


@contextmanager
def memory_bound(count: float | None = None, *, parts: int = 1) -> Iterator[None]:
    """Lets a pass keep `count` bytes for its gradient in the block, infinity for all images in one pass.

    By default what it may keep outside of the block. Each of `parts` models that pass side by side gets as much of it.
    """
    before, shared = _LIMIT.get()
    token = _LIMIT.set((before if count is None else count, shared * parts))
    try:
        yield
    finally:
        _LIMIT.reset(token)


def images_at_once(model: nn.Module, x: Images) -> int:
    """Counts the images, like those of `x` (n, c, h, w), that may pass `model` together in its mode of now: 1 or more."""
    kept = _KEPT.setdefault(model, {})
    key = (model.training, *x.shape[1:])
    if key not in kept:
        kept[key] = max(1, _bytes_kept(model, x[:1]))
    return max(1, int(min(_bytes(x.device) / kept[key], torch.iinfo(torch.int64).max)))


def in_chunks(model: nn.Module, x: Images) -> Tensor:
    """Computes features (n, d) of images (n, c, h, w): in one pass if the memory bound allows it, else in chunks.

    A chunk's activations are dropped and computed again, from its images, when the gradient comes to it: by the product of
    its Jacobian with the gradient of the features. That is the gradient of one pass but for rounding, also in the weights,
    as long as these stay as they are until then. Batch normalisation in train mode would be another function in chunks, so
    such a model gets one pass; meta-tuning keeps it in eval mode.

    Example:
        >>> model = torch.nn.Flatten()
        >>> with memory_bound(1):
        ...     in_chunks(model, torch.rand(3, 1, 2, 2)).shape
        torch.Size([3, 4])
    """
    # whoever runs an exported model has it in hand how large batches are; len() would fix their size in the file
    if torch.compiler.is_exporting() or len(x) < 2 or _moves(model) or (count := images_at_once(model, x)) >= len(x):
        whole: Tensor = model(x)
        return whole
    parts = torch.split(x, count)
    if not torch.is_grad_enabled():
        return torch.cat([model(part) for part in parts])
    return torch.cat([checkpoint(model, part, use_reentrant=False) for part in parts])


def _bytes(device: torch.device) -> float:
    count, parts = _LIMIT.get()
    if count is None:
        there = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
        count = _SHARE * max(_MEMORY, there)
    return count / parts


def _moves(model: nn.Module) -> bool:
    return any(module.training and has_statistics(module) for module in model.modules())


def _bytes_kept(model: nn.Module, x: Images) -> int:
    """Bytes that a pass of `x` keeps for the gradient, its weights not counted."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        # not the tensor: an output that its own operation keeps would hold itself in memory for good
        return tensor.new_empty(0)

    # in its own mode: dropout keeps its mask, whatever its rate; and no draw of it may change those of later passes
    forked = torch.random.fork_rng([x.device] if x.device.type == "cuda" else [])
    with forked, torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(x)
    return sum(storage.nbytes() for storage in kept.values())
