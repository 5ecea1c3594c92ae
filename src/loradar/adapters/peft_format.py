"""Adapters in the names, shapes and settings of Hugging Face PEFT's LoRA folders, both ways.

PEFT keeps the factors as layers: lora_A has a convolution's kernel and lora_B is 1x1 (peft/tuners/lora/layer.py).
Modules trained whole stand under their own names, with every tensor of their state dict (peft/utils/other.py,
ModulesToSaveWrapper), for it asks for each of them.
"""

import dataclasses
import re
from math import sqrt
from typing import Any

from torch import Tensor

from loradar.adapters.adapter import Adapter, keep
from loradar.adapters.card import Card
from loradar.adapters.delta import Delta
from loradar.core.errors import BadFileError

_BIASES = ("none", "all", "lora_only")
PREFIX = "base_model.model."
UNREADABLE = "LORADAR"
"""The `peft_type` of adapters that PEFT would misread: it knows no such type and refuses."""

# set by PEFT, without effect on what the weights mean once they are trained
_HARMLESS = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules"),
    *("modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern"),
    *(
        "use_dora",
        "lora_bias",
        "fan_in_fan_out",
    ),  # the tensors say the first two; the third is of layers that are no Linear
    *("alpha_pattern", "megatron_core", "eva_config", "lora_ga_config", "qalora_group_size", "runtime_config"),
}
# the starts that leave the base's own weights as they were
_STARTS = {"True", "False", "gaussian", "eva", "orthogonal"}


_HEADS = ("head", "heads", "fc", "classifier", "last_linear")


def names_of(delta: str) -> tuple[str, str]:
    return f"{PREFIX}{delta}.lora_A.weight", f"{PREFIX}{delta}.lora_B.weight"


def further_names_of(delta: str) -> tuple[str, str]:
    """Of the bias beside the factors, and of the magnitudes."""
    return f"{PREFIX}{delta}.lora_B.bias", f"{PREFIX}{delta}.lora_magnitude_vector"


def is_plain_lora(adapter: Adapter) -> bool:
    """Whether PEFT would read the adapter as it is, whatever the base: branches of two factors, and whole modules."""
    whole = {name.rpartition(".")[0] for name in adapter.modules_to_save}
    return not whole & set(adapter.deltas) and all(
        delta.branch_equivalent and delta.bias is None and delta.magnitude is None for delta in adapter.deltas.values()
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
    }


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def from_peft(config: dict[str, Any], tensors: dict[str, Tensor]) -> Adapter:
    """An adapter out of a folder that PEFT wrote. Raises BadFileError for options whose maths are not ours."""
    _refuse_options(config)
    factors: dict[str, dict[str, Tensor]] = {}
    modules_to_save: dict[str, Tensor] = {}
    # sorted: the reader of safetensors promises no order, and an optimiser's state goes by it
    for key, tensor in sorted(tensors.items()):
        # PEFT keeps the layer that it wraps as base_layer
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        if match := re.fullmatch(
            r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector)(\.weight)?", name
        ):
            factors.setdefault(match[1], {})[match[2]] = tensor
        elif ".lora_" in name or not key.startswith(PREFIX):
            raise BadFileError(f"{key} is not a tensor of a LoRA; expected lora_A, lora_B and whole modules")
        else:
            modules_to_save[name] = tensor
    # of an nn.MultiheadAttention PEFT takes the fused weight and, as a layer within, the projection
    within = ".base_layer.out_proj.lora_A.weight"
    attentions = {key.removeprefix(PREFIX).removesuffix(within) for key in tensors if key.endswith(within)}
    inside = attentions | {f"{name}.out_proj" for name in attentions}
    deltas = {name: _delta(name, own, config, beside=name not in inside) for name, own in factors.items()}
    for name in attentions:
        # PEFT adds this one twice (lora/layer.py, MultiheadAttention.merge), in training and in use
        projection = f"{name}.out_proj"
        deltas[projection] = dataclasses.replace(deltas[projection], scale=2 * deltas[projection].scale)
    modules = dict.fromkeys(name.rpartition(".")[0] for name in modules_to_save)
    norms = [module for module in modules if f"{module}.running_mean" in modules_to_save]
    others = [module for module in modules if module not in norms and module not in deltas]
    head = next((module for module in others if module.rpartition(".")[2] in _HEADS), next(iter(others), ""))
    card = Card(
        name=str(config.get("base_model_name_or_path") or "peft"),
        target_modules=tuple(deltas),
        rank=int(config["r"]),
        lora_alpha=float(config["lora_alpha"]),
        head=head,
        modules_to_save=tuple(modules),
        norm="owned" if norms else "frozen",
    )
    modules_to_save = {name: keep(name, tensor, trainable=True) for name, tensor in modules_to_save.items()}
    return Adapter(deltas=deltas, modules_to_save=modules_to_save, card=card)


def _refuse_options(config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        hint = "its loradar.json is missing" if kind == UNREADABLE else "expected LORA"
        raise BadFileError(f"adapter_config.json has peft_type {kind!r}; {hint}")
    for field in ("r", "lora_alpha"):
        if isinstance(config.get(field), bool) or not isinstance(config.get(field), int | float):
            raise BadFileError(f"adapter_config.json has {field} {config.get(field)!r}; expected a number")
    for option, value in config.items():
        if value and option not in _HARMLESS and not (option == "bias" and value in _BIASES):
            raise BadFileError(
                f"adapter_config.json has {option}={value!r}, which is not supported; expected plain LoRA"
            )
    begin = str(config.get("init_lora_weights", True))
    if begin not in _STARTS:
        raise BadFileError(
            f"adapter_config.json has init_lora_weights={begin!r}, which changes the base's weights; convert it with "
            "PEFT (path_initial_model_for_weight_conversion) first"
        )


def _delta(name: str, own: dict[str, Tensor], config: dict[str, Any], *, beside: bool) -> Delta:
    for part in ("lora_A.weight", "lora_B.weight"):
        if part not in own:
            raise BadFileError(f"{name} has {', '.join(own)} alone; expected lora_A and lora_B")
    a, b = own["lora_A.weight"], own["lora_B.weight"]
    bias, magnitude = own.get("lora_B.bias"), own.get("lora_magnitude_vector")
    rank = int(_pattern(config.get("rank_pattern"), name, config["r"]))
    kernel_fits = a.ndim == b.ndim and a.ndim in (2, 4) and all(side == 1 for side in b.shape[2:])
    # of a grouped convolution, lora_B is grouped too: each group of outputs reads its share of the rank
    groups = rank // b.shape[1] if kernel_fits and a.ndim == 4 and b.shape[1] and rank % b.shape[1] == 0 else 1
    if not kernel_fits or a.shape[0] != rank or b.shape[1] * groups != rank:
        raise BadFileError(
            f"{name} has lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)} at rank {rank}; expected (rank, in, ...) "
            "and (out, rank, ...) of a Linear or a Conv2d"
        )
    if groups > 1 and magnitude is not None:
        raise BadFileError(
            f"{name} is a grouped convolution with DoRA, which is not supported; expected plain LoRA there"
        )
    for option, tensor in (("use_dora", magnitude), ("lora_bias", bias)):
        if config.get(option) and tensor is None:
            raise BadFileError(f"{name} lacks a tensor that {option}=True asks for; get the folder anew")
    alpha = float(_pattern(config.get("alpha_pattern"), name, config["lora_alpha"]))
    return Delta(
        a=a.flatten(1).contiguous().requires_grad_(),
        b=b.flatten(1).contiguous().requires_grad_(),
        shape=(len(b), *a.shape[1:]),
        scale=alpha / (sqrt(rank) if config.get("use_rslora") else rank),
        branch_equivalent=beside and groups == 1,
        groups=groups,
        bias=None if bias is None else bias.requires_grad_(),
        magnitude=None if magnitude is None else magnitude.flatten().contiguous().requires_grad_(),
    )


def _pattern(patterns: dict[str, Any] | None, name: str, otherwise: Any) -> Any:
    # as peft.utils.other.get_pattern_key: a key is a regular expression for the end of a name
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return otherwise
