"""Which base an adapter belongs to: a hash of every tensor of the base."""

import hashlib

import torch
from torch import nn

from loradar.core.modules import Wrapper


def fingerprint(base: nn.Module) -> str:
    """64 hex digits: sha256 over name, dtype, shape and bytes of the state dict, in the order of the names.

    Mean and std of a normalising wrapper count, for they change what the base computes; a wrapper without tensors of
    its own (a precision, say) does not. Nor do `num_batches_tracked` counters, device and memory format.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_without_empty_wrappers(base).state_dict().items()):
        if name.endswith("num_batches_tracked") or not isinstance(tensor, torch.Tensor):
            continue
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _without_empty_wrappers(model: nn.Module) -> nn.Module:
    while isinstance(model, Wrapper) and len(model.state_dict()) == len(model.wrapped.state_dict()):
        model = model.wrapped
    return model
