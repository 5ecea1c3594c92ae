"""Adapters in the names, shapes and settings of Hugging Face PEFT's LoRA folders.

PEFT keeps the factors as layers: lora_A has a convolution's kernel and lora_B is 1x1 (peft/tuners/lora/layer.py).
Modules trained whole stand under their own names, with every tensor of their state dict (peft/utils/other.py,
ModulesToSaveWrapper), for it asks for each of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from loradar.adapters.adapter import Adapter

PREFIX = "base_model.model."
UNREADABLE = "LORADAR"
"""The `peft_type` of adapters that PEFT would misread: it knows no such type and refuses."""


def names_of(delta: str) -> tuple[str, str]:
    return f"{PREFIX}{delta}.lora_A.weight", f"{PREFIX}{delta}.lora_B.weight"


def further_names_of(delta: str) -> tuple[str, str]:
    """Of the bias beside the factors, and of the magnitudes."""
    return f"{PREFIX}{delta}.lora_B.bias", f"{PREFIX}{delta}.lora_magnitude_vector"


def is_plain_lora(adapter: Adapter) -> bool:
    """Whether PEFT would read the adapter as it is, whatever the base: branches of two factors, and whole modules.

    With a bias for each of the branches, or for none: it has one setting for all.
    """
    whole = {name.rpartition(".")[0] for name in adapter.modules_to_save}
    deltas = adapter.deltas.values()
    is_alike = len({delta.bias is None for delta in deltas}) < 2
    return (
        is_alike
        and not whole & set(adapter.deltas)
        and all(delta.branch_equivalent and delta.magnitude is None for delta in deltas)
    )


def tensors_of(adapter: Adapter) -> dict[str, Tensor]:
    """What goes into the file, on the CPU. The SVD start's frozen part is concatenated: it is then of rank 2r."""
    tensors: dict[str, Tensor] = {}
    for name, delta in adapter.deltas.items():
        a, b = delta.factors()
        if len(delta.shape) == 4:
            a, b = a.reshape(len(a), *delta.shape[1:]), b[:, :, None, None]
        tensors |= dict(zip(names_of(name), (a, b), strict=True))
        further = zip(further_names_of(name), (delta.bias, delta.magnitude), strict=True)
        tensors |= {key: tensor.detach() for key, tensor in further if tensor is not None}
    tensors |= {PREFIX + name: tensor.detach() for name, tensor in adapter.modules_to_save.items()}
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def config_of(adapter: Adapter, *, readable: bool) -> dict[str, Any]:
    """The `adapter_config.json` that makes PEFT compute what we compute; or, unless `readable`, refuse."""
    ranks = {name: len(delta.factors()[0]) for name, delta in adapter.deltas.items()}
    alphas = {name: _whole(delta.scale * ranks[name]) for name, delta in adapter.deltas.items()}
    rank, alpha = next(iter(ranks.values()), 1), next(iter(alphas.values()), 1)
    whole = dict.fromkeys(name.rpartition(".")[0] for name in adapter.modules_to_save)
    return {
        "peft_type": "LORA" if readable else UNREADABLE,
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        # anchored: PEFT takes an unanchored key as the end of a name, and 'conv1' would hit every block
        "rank_pattern": {f"^{re.escape(n)}": r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {f"^{re.escape(n)}": a for n, a in alphas.items() if a != alpha},
        # a string is matched against full names; PEFT's own stand-in for 'none' is 'dummy-target-modules'
        "target_modules": "|".join(map(re.escape, ranks)) or "dummy-target-modules",
        "modules_to_save": list(whole) or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        **({"lora_bias": True} if readable and any(d.bias is not None for d in adapter.deltas.values()) else {}),
    }


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number
