"""One schema a command: a YAML or TOML file and the flags are both held against it. Imports no torch: help is instant."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from loradar.core.errors import BadConfigError, did_you_mean

Count = int | None


class Config(BaseModel):
    """What every command that computes has."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware is faster.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps.")
    seed: int = Field(0, description="Seeds the splits, the start, the order and the augmentation.")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        # YAML reads yes as true, and pydantic would take that for 1
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise PydanticCustomError("truth", "expected a number or text (quote it where it is a word)")
        return value


class DataConfig(Config):
    """What every command that reads images has."""

    data: str = Field(
        "digits", description="digits, hub:OWNER/NAME, parquet files, an image folder, cifar-10-batches-py."
    )
    train: Count = Field(None, ge=1, description="Images to train on: a fixed random part. Default: all.")
    validation: int = Field(500, ge=1, description="Images held out to select the epoch; never reported.")
    limit: Count = Field(500, ge=1, description="Images reported: the first so many of the test split.")


class PretrainConfig(DataConfig):
    """Trains a base: SGD with Nesterov momentum, one-cycle, crop and flip."""

    architecture: str = Field("resnet18-cifar", description="resnet18-cifar, a torchvision name, or timm:NAME.")
    out: Path = Field(Path("runs/base"), description="Folder for the base: model.safetensors and config.json.")
    epochs: int = Field(15, ge=1, description="Passes over the training images.")
    batch_size: int = Field(128, ge=2, description="Images a step.")
    learning_rate: float = Field(0.1, gt=0, description="The peak of the one-cycle schedule.")
    weight_decay: float = Field(5e-4, ge=0, description="On matrices and kernels only.")
    crop: int = Field(4, ge=0, description="Reflect-pad by so many pixels and crop at random.")
    flip: bool = Field(True, description="Mirror half of the images. Not for digits or letters.")


class HardenConfig(DataConfig):
    """Trains one adapter per attack on a frozen base, measures each, writes the report."""

    base: str = Field(..., description="FOLDER, torchvision:NAME, timm:NAME, hub:OWNER/NAME or FILE:architecture=NAME.")
    out: Path = Field(Path("runs/harden"), description="Folder for adapters and report. A killed run resumes there.")
    attacks: list[str] = Field(
        ["roa", "fia", "pgd"], description="One adapter each: [MYNAME=]NAME[:key=value,...][@base|@defended]."
    )
    transfer_attacks: list[str] | None = Field(None, description="Reported, against the base. Default: --attacks.")
    adaptive_attacks: list[str] | None = Field(None, description="Reported, against each model. Default: --attacks.")
    adaptive: Literal["own", "all", "none"] = Field("own", description="Adaptive rows: own attack, all attacks, none.")
    adaptive_limit: Count = Field(None, ge=1, description="Reported images for the adaptive rows. Default: --limit.")
    targets: list[str] = Field(["block-conv1+stem"], description="Preset or patterns: which layers get a delta.")
    rank: int = Field(4, ge=1, description="Rank of each delta.")
    alpha: float | None = Field(None, gt=0, description="Scale is alpha / rank. Default: the rank.")
    start: Literal["random", "zeros", "svd"] = Field("random", description="zeros is the literal start; never learns.")
    norm: Literal["frozen", "owned"] = Field("frozen", description="owned: statistics move and belong to the adapter.")
    attack_target: Literal["base", "defended"] = Field(
        "base", description="base: crafted once, kept on disk. defended: against the plugged model, every step."
    )
    baselines: bool = Field(True, description="Also train fc-only and fc+norm, so that the deltas earn their place.")
    literal: bool = Field(False, description="Also train each adapter from both factors at zero.")
    keep: float = Field(0.0, ge=0, description="Weight of staying with the base's answers on clean images (KL).")
    epochs: int = Field(10, ge=1, description="Passes over the training images.")
    batch_size: int = Field(128, ge=1, description="Clean images a step; as many attacked ones beside them.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="Who descends.")
    learning_rate: float = Field(1e-3, gt=0, description="At the start of the schedule.")
    weight_decay: float = Field(0.0, ge=0, description="Of the optimiser.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    schedule: Literal["step", "cosine", "one-cycle", "constant"] = Field("step", description="Of the learning rate.")
    step_size: int = Field(10, ge=1, description="Epochs to each fall of the step schedule.")
    gamma: float = Field(0.1, gt=0, description="Factor of each fall of the step schedule.")
    crop: int = Field(4, ge=0, description="Reflect-pad and crop, clean and attacked image alike.")
    flip: bool = Field(True, description="Mirror, clean and attacked image alike. Not for digits or letters.")
    cache: Path = Field(Path("~/.cache/loradar"), description="Where attacked images are kept between runs.")
    tensorboard: bool = Field(False, description="Write curves for TensorBoard (extra: tensorboard).")


class AuditConfig(Config):
    """Measures a base and adapters against attacks, writes the report."""

    base: str = Field(..., description="FOLDER, torchvision:NAME, timm:NAME, hub:OWNER/NAME or FILE:architecture=NAME.")
    adapter: list[Path] = Field([], description="Adapter folder. May be given several times.")
    data: str = Field(
        "digits", description="digits, hub:OWNER/NAME, parquet files, an image folder, cifar-10-batches-py."
    )
    attack: list[str] = Field(["pgd"], description="NAME[:key=value,...]. May be given several times.")
    threat: list[Literal["transfer", "adaptive"]] = Field(
        ["transfer", "adaptive"], description="transfer: crafted on the base. adaptive: on the measured model."
    )
    limit: Count = Field(500, ge=1, description="Images: the first so many of the test split.")
    out: Path = Field(Path("runs/audit"), description="Folder for report.json, report.md, report.html.")
    batch_size: int = Field(128, ge=1, description="Images a forward pass.")
    cache: Path = Field(Path("~/.cache/loradar"), description="Where attacked images are kept between runs.")


class GuardBuildConfig(Config):
    """Makes a guard of a base and adapters: calibrates the voters, fits the identifier, writes the folder."""

    base: str = Field(..., description="FOLDER, torchvision:NAME, timm:NAME, hub:OWNER/NAME or FILE:architecture=NAME.")
    adapter: list[Path] = Field([], description="Adapter folder. May be given several times; one at least.")
    data: str = Field(
        "digits", description="digits, hub:OWNER/NAME, parquet files, an image folder, cifar-10-batches-py."
    )
    attack: list[str] = Field(
        ["roa", "fia", "pgd"],
        description="A threat to know: [MYNAME=]NAME[:key=value,...]. The adapter of its name is its specialist.",
    )
    calibration: int = Field(
        500, ge=8, description="Images to calibrate on, that no adapter trained or is reported on."
    )
    calibration_data: str | None = Field(None, description="Take them from here. Default: what --data has left.")
    limit: Count = Field(
        500, ge=1, description="Images reported: the first so many of the test split; never used here."
    )
    out: Path = Field(Path("runs/guard"), description="Folder for the guard.")
    fusion: Literal["majority", "weighted", "mean", "logpool", "routed", "soft-routed"] = Field(
        "soft-routed", description="How opinions become one answer."
    )
    base_votes: bool = Field(False, description="The base's vote counts among the adapters'.")
    abstain: float = Field(0.0, ge=0, le=1, description="No answer below this confidence.")
    cascade: bool = Field(True, description="Images that look clean get the base's answer; the adapters do not run.")
    gate_miss: float = Field(
        0.02, ge=0, le=1, description="Attacked calibration images that may look clean, of any kind."
    )
    false_alarms: float = Field(
        0.01, gt=0, lt=0.5, description="Clean calibration images that may be named a threat or unknown."
    )
    respond: list[str] = Field(
        [], description="THREAT=MEASURE[+MEASURE...] while alarmed: mask, inpaint, smooth, jpeg, bit-depth."
    )
    force: list[str] = Field([], description="Measures on every image.")
    forbid: list[str] = Field([], description="Measures never taken.")
    rectangle: int = Field(5, ge=1, description="Side of the rectangles that masking is certified against, in pixels.")
    masks: int = Field(6, ge=2, description="Masks an axis of two-round masking.")
    batch_size: int = Field(128, ge=1, description="Images a forward pass.")
    cache: Path = Field(Path("~/.cache/loradar"), description="Where attacked images are kept between runs.")


class GuardAuditConfig(Config):
    """Attacks a guard as a whole, and beside it the base and every adapter alone; writes the report."""

    guard: Path = Field(..., description="A guard's folder, as `guard build` writes it.")
    base: str | None = Field(None, description="The base, where it is no longer at the place that the guard names.")
    contender: list[Path] = Field(
        [], description="Adapter folder to measure beside the guard. May be given several times."
    )
    data: str = Field(
        "digits", description="digits, hub:OWNER/NAME, parquet files, an image folder, cifar-10-batches-py."
    )
    attack: list[str] = Field([], description="[MYNAME=]NAME[:key=value,...]. Default: the threats of the guard.")
    unfitted: list[str] = Field(
        ["fgsm", "noise", "defocus_blur", "contrast"],
        description="Threats that the identifier never saw: attacks, and corruptions such as contrast.",
    )
    fusion: list[str] = Field(
        ["majority", "weighted", "mean", "logpool", "routed", "soft-routed"], description="Rules to measure."
    )
    threat: list[Literal["transfer", "adaptive"]] = Field(
        ["transfer", "adaptive"], description="transfer: crafted on the base. adaptive: through the guard itself."
    )
    limit: Count = Field(500, ge=1, description="Images: the first so many of the test split.")
    adaptive_limit: Count = Field(None, ge=1, description="Of these, for the adaptive rows. Default: all.")
    certify_limit: Count = Field(None, ge=1, description="Of these, for the certificate of masking. Default: all.")
    evade_steps: int = Field(20, ge=1, description="Steps of the attacks that also try to be named clean.")
    out: Path = Field(Path("runs/guard-audit"), description="Folder for report.json, report.md, report.html.")
    batch_size: int = Field(128, ge=1, description="Images a forward pass.")
    cache: Path = Field(Path("~/.cache/loradar"), description="Where attacked images are kept between runs.")


class MetaTuneConfig(Config):
    """Meta-tunes a pool of adapters, each against its own budget, on few-shot tasks; and the baselines beside it."""

    base: str = Field(..., description="As harden takes it, or stages:BASE for features of several of its stages.")
    data: str = Field(..., description="Images to make tasks of: any source that harden takes, with many classes.")
    images_per_class: Count = Field(None, ge=2, description="The first so many of each class. Default: all.")
    validation_data: str | None = Field(None, description="Tasks that select the epoch. Default: classes held out.")
    validation_classes: int = Field(16, ge=2, description="Classes of the data held out, without validation data.")
    validation_episodes: int = Field(20, ge=1, description="Tasks that select the epoch.")
    out: Path = Field(Path("runs/pool"), description="Folder for the pool. A killed run resumes there.")
    setting: str = Field("5w5s", description="WAYwSHOTs, or variable. A pool serves the shots it was tuned for best.")
    query: int = Field(10, ge=1, description="Query images of each class.")
    budgets: list[float] = Field([0.01, 0.1, 6, 8], description="Radii of the pool's members, in 255ths.")
    query_attack: str = Field(
        "pgd:steps=2,loss=kl", description="pgd or pyramid, with settings; the radius is a budget."
    )
    step: float = Field(0.5, gt=0, description="Step of the attack, as a share of the budget.")
    head: Literal["centroid", "ridge"] = Field(
        "centroid", description="What tasks are classified by while tuning; clean meta-tuning keeps centroid."
    )
    targets: list[str] = Field([], description="Which layers. Default: attention+mlp, or all-conv where there is none.")
    rank: int = Field(8, ge=1, description="Rank of each delta; query, key and value have one each.")
    start: Literal["svd", "random"] = Field("svd", description="svd: from the largest singular values.")
    perturbation: Literal["raw", "relative", "none"] = Field("relative", description="Of the factors, uphill.")
    perturbation_step: float = Field(1e-4, gt=0, description="raw: times the gradient, each factor alone.")
    gamma: float = Field(5e-3, ge=0, description="relative: share of each factor's norm, all factors together.")
    kl: Literal["clean-attacked", "attacked-clean"] = Field(
        "clean-attacked", description="Direction of the divergence."
    )
    adversarial_weight: float = Field(6.0, ge=0, description="Weight of the divergence beside the clean loss.")
    epochs: int = Field(30, ge=1, description="Epochs; each ends with a look at the validation tasks.")
    episodes: int = Field(2000, ge=1, description="Tasks an epoch, one a step.")
    learning_rate: float = Field(5e-4, gt=0, description="The peak of the cosine.")
    clean_learning_rate: float | None = Field(
        None, gt=0, description="That of clean meta-tuning, which moves every weight. Default: learning_rate."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    warm_up: int = Field(5, ge=0, description="Epochs in which the rate first rises.")
    baselines: bool = Field(True, description="Also clean meta-tuning of all weights, and one adapter, random budgets.")
    ablations: bool = Field(False, description="Also one adapter, random budgets, without perturbation of its factors.")
    member: list[str] = Field([], description="Train these alone (on several machines). May be given several times.")


class BlendConfig(Config):
    """What every command that blends a pool has."""

    base: str | None = Field(None, description="Default: the base that the pool was tuned on.")
    pool: Path = Field(..., description="Folder that meta-tune wrote.")
    score: Literal["compactness", "loss", "attacked"] = Field(
        "compactness", description="Of a member: as in the paper, its loss on the support, or on the attacked support."
    )
    compactness: float = Field(0.6, ge=0, le=1, description="Weight of closeness against separation in a score.")
    sharpness: float = Field(1.0, ge=0, description="Beta: how much better scores weigh more.")
    top: int = Field(2, ge=1, description="Members that are blended.")
    keep: float = Field(0.9, gt=0, le=1, description="Share of the singular values that trimming keeps.")
    head: Literal["centroid", "ridge"] = Field(
        "centroid", description="What the support makes of its features: class means, or a ridge regression."
    )
    copies: int = Field(2, ge=1, description="Augmented copies of the support that members are scored on.")


class FewShotEvalConfig(BlendConfig):
    """Measures the blended pool and every baseline on few-shot tasks of any domains, writes the report."""

    domain: list[str] = Field(..., min_length=1, description="NAME=SOURCE. May be given several times.")
    in_domain: list[str] = Field([], description="Names of domains like the tuning data; averaged apart.")
    out: Path = Field(Path("runs/few-shot"), description="Folder for the report. A killed run resumes there.")
    setting: list[str] = Field(["5w1s", "5w5s"], description="WAYwSHOTs, or variable. May be given several times.")
    query: int = Field(10, ge=1, description="Query images of each class.")
    episodes: int = Field(600, ge=2, description="Clean tasks a domain and setting.")
    attack: list[str] = Field(["pgd:radius=4.5/255,step=0.45/255"], description="On the query, of each method's model.")
    curve: list[str] = Field([], description="Further attacks, on the full method and the main baselines alone.")
    attacked_episodes: int = Field(100, ge=0, description="Tasks under each attack; 0 leaves attacks out.")
    attacked_query: int = Field(5, ge=1, description="Query images of each class under attack.")
    corrupted_episodes: int = Field(
        75, ge=0, description="Tasks with corrupted queries, over 15 kinds at 5 severities."
    )
    search: str | None = Field(
        None, description="NAME=SOURCE of validation tasks to choose blending, and members, by. Default: none."
    )
    search_episodes: int = Field(30, ge=2, description="Tasks of the search.")
    transductive: bool = Field(True, description="Also rows that answer all queries of a task at once.")
    ablations: bool = Field(True, description="Also every component on and off, pool size and top-k.")
    fine_tune_episodes: int = Field(0, ge=0, description="Clean tasks on which blended weights are also fine-tuned.")
    batch_size: int = Field(128, ge=1, description="Images a forward pass.")


class FewShotFitConfig(BlendConfig):
    """Makes an adapter for one task out of a folder of images by class."""

    support: str = Field(..., description="A folder with a folder of images for each class, or any other source.")
    out: Path = Field(Path("runs/task"), description="Folder for the adapter.")
    shot: Count = Field(None, ge=1, description="Images of each class to use. Default: all there are.")
    rank: Count = Field(None, ge=1, description="Truncate the result to this rank; the error is said. Default: exact.")
    fine_tune: bool = Field(
        False, description="Then tune every weight on the images (AMT-FT): slower, and a large file."
    )


C = TypeVar("C", bound=BaseModel)


def read_file(path: Path) -> dict[str, Any]:
    """The settings of a YAML or TOML file. Raises BadConfigError where it is neither."""
    try:
        text = path.read_text()
        found = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise BadConfigError(f"config {path} cannot be read: {line}; expected YAML, or TOML in a .toml file") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadConfigError(f"config {path} holds {type(found).__name__}; expected a table of settings (key: value)")
    return {str(key).replace("-", "_"): value for key, value in found.items()}


def settle(schema: type[C], settings: Mapping[str, Any]) -> C:
    """`settings` held against `schema`. Raises BadConfigError: one line, with the nearest key for an unknown one."""
    try:
        return schema(**settings)
    except ValidationError as error:
        raise BadConfigError("; ".join(_line(schema, dict(e)) for e in error.errors()[:3])) from error


def _line(schema: type[BaseModel], error: dict[str, Any]) -> str:
    key = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return f"unknown config key {key!r}; {did_you_mean(key, schema.model_fields)}"
    if error["type"] == "missing":
        return f"{key} is missing; {schema.model_fields[key].description}"
    return f"{key} is {error['input']!r}; {error['msg'].lower()}"
