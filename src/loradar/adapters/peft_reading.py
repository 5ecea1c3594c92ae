"""Adapters out of folders that Hugging Face PEFT wrote."""

import dataclasses
import re
from math import sqrt
from typing import Any

from torch import Tensor

from loradar.adapters.adapter import Adapter, keep
from loradar.adapters.card import Card
from loradar.adapters.delta import Delta
from loradar.adapters.peft_format import PREFIX, UNREADABLE
from loradar.core.errors import BadFileError

_BIASES = ("none", "all", "lora_only")
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
