"""Adapters out of folders that Hugging Face PEFT wrote."""

import dataclasses
import re
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Any, ClassVar

import torch
from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
from torch import Tensor

from loradar.adapters.adapter import Adapter, keep
from loradar.adapters.card import Card
from loradar.adapters.delta import Delta
from loradar.adapters.patterns import match_names
from loradar.adapters.peft_format import PREFIX, UNREADABLE
from loradar.core.errors import BadFileError
from loradar.core.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS

_BIASES = ("none", "all", "lora_only")
# set by PEFT, without effect on what the weights mean once they are trained
_HARMLESS = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules"),
    *("modules_to_save", "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern"),
    # the tensors say the first two; the third is of layers that are no Linear
    *("use_dora", "lora_bias", "fan_in_fan_out"),
    *("alpha_pattern", "megatron_core", "eva_config", "lora_ga_config", "qalora_group_size", "runtime_config"),
    # ways of training, without a part in the answers
    *("velora_config", "monteclora_config"),
    # read apart
    *("target_parameters", "use_bdlora"),
}
# what such a way of training keeps for itself, in the folder too
_OF_TRAINING = {"velora_config": ".lora_velora_embed", "monteclora_config": ".lora_monteclora_sampler."}
# the starts that leave the base's own weights as they were
_STARTS = {"True", "False", "gaussian", "eva", "orthogonal", "mica"}
_HEADS = ("head", "heads", "fc", "classifier", "last_linear")


_Rank = Annotated[int, Strict(), Field(ge=1)]
_Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
_Flag = Annotated[bool, Strict()]


@dataclass(frozen=True, kw_only=True)
class BlockDiagonal:
    """Which layers have a block-diagonal A or B: those whose names hold one of these. Their blocks are kept in a column."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    target_modules_bd_a: list[str] | None = None
    target_modules_bd_b: list[str] | None = None
    # one for each device that shares the layer; the whole matrix has as many times the numbers of the file
    nblocks: Annotated[int, Strict(), Field(ge=1, le=64)] = 1
    match_strict: _Flag = True

    def dense(self, name: str, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of layer `name`, those in blocks made whole."""
        names = {"lora_A.weight": self.target_modules_bd_a, "lora_B.weight": self.target_modules_bd_b}
        parts = [part for part, held in names.items() if any(text in name for text in held or [])]
        if len(parts) > 1:
            raise BadFileError(f"{ADAPTER_CONFIG} has use_bdlora for both factors of {name}; expected one of them")
        for part in parts:
            if part in own and own[part].ndim == 2 and len(own[part]) % self.nblocks == 0:
                own = own | {part: torch.block_diag(*own[part].chunk(self.nblocks))}  # type: ignore[no-untyped-call]
        return own


@dataclass(frozen=True, kw_only=True)
class PeftSettings:
    """What is used of PEFT's `adapter_config.json`; patterns are regular expressions for the end of a layer's name."""

    r: _Rank
    lora_alpha: _Number
    rank_pattern: dict[str, _Rank] | None = None
    alpha_pattern: dict[str, _Number] | None = None
    use_rslora: _Flag | None = None
    use_dora: _Flag | None = None
    lora_bias: _Flag | None = None
    base_model_name_or_path: str | None = None
    target_parameters: list[str] | None = None
    use_bdlora: BlockDiagonal | None = None


_SETTINGS = TypeAdapter(PeftSettings)


def from_peft(config: dict[str, Any], tensors: dict[str, Tensor]) -> Adapter:
    """An adapter out of a folder that PEFT wrote; half-precision tensors become float32, as PEFT makes them.

    Raises BadFileError for options whose maths are not ours, and for tensors that are no LoRA.
    """
    settings = _settings(config)
    if not tensors:
        raise BadFileError(f"{ADAPTER_WEIGHTS} holds no tensors; get the folder anew")
    aside = [part for option, part in _OF_TRAINING.items() if config.get(option)]
    tensors = {key: tensor for key, tensor in tensors.items() if not any(part in f"{key}." for part in aside)}
    halves = (torch.bfloat16, torch.float16)
    tensors = {key: tensor.float() if tensor.dtype in halves else tensor for key, tensor in tensors.items()}
    factors: dict[str, dict[str, Tensor]] = {}
    modules_to_save: dict[str, Tensor] = {}
    # sorted: the reader of safetensors promises no order, and an optimiser's state goes by it
    for key, tensor in sorted(tensors.items()):
        # PEFT keeps the layer that it wraps as base_layer
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        if match := re.fullmatch(
            r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_magnitude_vector)(\.weight)?", name
        ):
            if match[2] in factors.setdefault(match[1], {}):
                raise BadFileError(f"{key} is the second {match[2]} of {match[1]}; expected one change of each layer")
            factors[match[1]][match[2]] = tensor
        elif ".lora_" in name or not key.startswith(PREFIX):
            raise BadFileError(
                f"{key} is not a tensor of a LoRA on a Linear or a Conv2d; expected lora_A, lora_B and whole modules"
            )
        else:
            modules_to_save[name] = tensor
    # of an nn.MultiheadAttention PEFT takes the fused weight and, as a layer within, the projection
    within = ".base_layer.out_proj.lora_A.weight"
    attentions = {key.removeprefix(PREFIX).removesuffix(within) for key in tensors if key.endswith(within)}
    inside = attentions | {f"{name}.out_proj" for name in attentions}
    ranks = match_names(settings.rank_pattern or {}, list(factors), "rank_pattern")
    alphas = match_names(settings.alpha_pattern or {}, list(factors), "alpha_pattern")
    deltas = {
        name: _delta(
            name,
            settings.use_bdlora.dense(name, own) if settings.use_bdlora else own,
            settings,
            rank=ranks.get(name, settings.r),
            alpha=alphas.get(name, settings.lora_alpha),
            beside=name not in inside,
        )
        for name, own in factors.items()
    }
    for name in attentions:
        # PEFT adds this one twice (lora/layer.py, MultiheadAttention.merge), in training and in use
        projection = f"{name}.out_proj"
        if projection not in deltas:
            raise BadFileError(f"{name!r} is no name of an attention layer in PEFT's folders; get the folder anew")
        # but not its bias; and that of the fused weight it never adds
        bias = deltas[projection].bias
        halved = None if bias is None else (bias.detach() / 2).requires_grad_()
        deltas[projection] = dataclasses.replace(deltas[projection], scale=2 * deltas[projection].scale, bias=halved)
        deltas[name] = dataclasses.replace(deltas[name], bias=None)
    modules = dict.fromkeys(name.rpartition(".")[0] for name in modules_to_save)
    norms = [module for module in modules if f"{module}.running_mean" in modules_to_save]
    others = [module for module in modules if module not in norms and module not in deltas]
    head = next((module for module in others if module.rpartition(".")[2] in _HEADS), next(iter(others), ""))
    card = Card(
        name=settings.base_model_name_or_path or "peft",
        target_modules=tuple(deltas),
        rank=settings.r,
        lora_alpha=settings.lora_alpha,
        head=head,
        modules_to_save=tuple(modules),
        norm="owned" if norms else "frozen",
    )
    modules_to_save = {name: keep(name, tensor, trainable=True) for name, tensor in modules_to_save.items()}
    return Adapter(deltas=deltas, modules_to_save=modules_to_save, card=card)


def _settings(config: dict[str, Any]) -> PeftSettings:
    kind = config.get("peft_type")
    if kind != "LORA":
        hint = "its loradar.json is missing" if kind == UNREADABLE else "expected LORA"
        raise BadFileError(f"{ADAPTER_CONFIG} has peft_type {kind!r:.80}; {hint}")
    for option, value in config.items():
        if value and option not in _HARMLESS and not (option == "bias" and value in _BIASES):
            raise BadFileError(
                f"{ADAPTER_CONFIG} has {option:.80}={value!r:.80}, which is not supported; expected plain LoRA"
            )
    begin = str(config.get("init_lora_weights", True))
    if begin not in _STARTS:
        raise BadFileError(
            f"{ADAPTER_CONFIG} has init_lora_weights={begin!r:.80}, which changes the base's weights; convert it with "
            "PEFT (path_initial_model_for_weight_conversion) first"
        )
    own = {field.name: config[field.name] for field in dataclasses.fields(PeftSettings) if field.name in config}
    try:
        settings = _SETTINGS.validate_python(own)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadFileError(f"{ADAPTER_CONFIG} has {where:.80} {first['input']!r:.80}: {first['msg']}") from error
    parameters = settings.target_parameters or []
    # the weight of a Linear is changed as by target_modules; patterns are matched against names of parameters there
    odd = [name for name in parameters if name.rpartition(".")[2] != "weight"]
    if odd or (parameters and (settings.rank_pattern or settings.alpha_pattern)):
        raise BadFileError(
            f"{ADAPTER_CONFIG} has target_parameters {(odd or parameters)[0]!r:.80}"
            f"{'' if odd else ' beside a rank_pattern or an alpha_pattern'}, which is not supported; expected weights of "
            "Linear layers, of one rank and one lora_alpha"
        )
    if settings.use_dora and settings.lora_bias:
        raise BadFileError(f"{ADAPTER_CONFIG} has use_dora and lora_bias, which PEFT never sets together; get it anew")
    return settings


def _delta(
    name: str, own: dict[str, Tensor], settings: PeftSettings, *, rank: int, alpha: float, beside: bool
) -> Delta:
    for part in ("lora_A.weight", "lora_B.weight"):
        if part not in own:
            raise BadFileError(f"{name} has {', '.join(own)} alone; expected lora_A and lora_B")
    a, b = own["lora_A.weight"], own["lora_B.weight"]
    bias, magnitude = own.get("lora_B.bias"), own.get("lora_magnitude_vector")
    kernel_fits = a.ndim == b.ndim and a.ndim in (2, 4) and all(side == 1 for side in b.shape[2:])
    # of a grouped convolution, lora_B is grouped too: each group of outputs reads its share of the rank
    groups = rank // b.shape[1] if kernel_fits and a.ndim == 4 and b.shape[1] and rank % b.shape[1] == 0 else 1
    if not kernel_fits or a.shape[0] != rank or b.shape[1] * groups != rank:
        raise BadFileError(
            f"{name} has lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)} at rank {rank}; expected (rank, in, ...) "
            "and (out, rank, ...) of a Linear or a Conv2d"
        )
    for option, tensor in (("use_dora", magnitude), ("lora_bias", bias)):
        if getattr(settings, option) and tensor is None:
            raise BadFileError(f"{name} lacks a tensor that {option}=True asks for; get the folder anew")
    return Delta(
        a=a.flatten(1).contiguous().requires_grad_(),
        b=b.flatten(1).contiguous().requires_grad_(),
        shape=(len(b), *a.shape[1:]),
        scale=alpha / (sqrt(rank) if settings.use_rslora else rank),
        branch_equivalent=beside and groups == 1,
        groups=groups,
        bias=None if bias is None else bias.requires_grad_(),
        magnitude=None if magnitude is None else magnitude.flatten().contiguous().requires_grad_(),
    )
