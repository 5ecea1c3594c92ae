"""Settings of pretrain, harden, audit and predict. Imports no torch, so that help is instant."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from loradar.core.config import (
    BASE,
    BATCH_SIZE,
    CACHE,
    DATA,
    DEVICE,
    EFFORT,
    MAX_TEST_IMAGES,
    REPORT_FOLDER,
    Config,
    Count,
    Device,
    Effort,
    RunConfig,
    Settings,
    Size,
    default_cache,
)
from loradar.core.ranks import Bytes, Rank, check_one_of
from loradar.jobs.recipes import DEFAULT, RECIPES, Recipe, with_recipe

default = RECIPES.of_default


class DataConfig(RunConfig):
    """Settings of every command that trains on images."""

    data: str = Field("digits", description=DATA)
    size: Size | None = Field(
        None, description="Run base and images at this size, in pixels. Default: the base's input size."
    )
    train: Count = Field(None, ge=1, description="Images to train on, drawn at random. Default: all that are left.")
    validation: Count = Field(
        None,
        ge=1,
        description="Images that select the epoch; never reported. Default: a tenth of the training images, at most 1,000.",
    )
    max_test_images: Count = Field(None, ge=1, description=MAX_TEST_IMAGES)


class PretrainConfig(DataConfig):
    """Trains a base: SGD with Nesterov momentum, one-cycle schedule, crops and flips."""

    size: Size | None = Field(
        None,
        description="Scale and crop all images to this size, in pixels. Default: their own, where all have one size.",
    )
    architecture: str = Field("resnet18-cifar", description="resnet18-cifar, a torchvision name, or timm:NAME.")
    out: Path = Field(Path("runs/base"), description="Folder for the base: model.safetensors and config.json.")
    epochs: int = Field(15, ge=1, description="Passes over the training images.")
    batch_size: int = Field(128, ge=2, description="Images per step.")
    learning_rate: float = Field(0.1, gt=0, description="Peak of the one-cycle schedule.")
    weight_decay: float = Field(5e-4, ge=0, description="Weight decay of matrices and kernels.")
    crop: int = Field(4, ge=0, description="Pad by this many pixels (reflected) and crop at random.")
    flip: bool = Field(True, description="Mirror half of the images. Turn it off for digits and letters.")


class HardenConfig(DataConfig):
    """Trains one adapter per attack on a frozen base, measures each, writes the report."""

    base: str = Field(..., description=BASE)
    head: Literal["auto", "new"] = Field(
        "auto",
        description="auto: the base's own head, or those of its classes that the data name. new: fit a head for the data.",
    )
    out: Path = Field(Path("runs/harden"), description="Folder for adapters and report.")
    recipe: Recipe = Field(
        DEFAULT,
        description="Settings to start from, each of which a flag of its own may change: see RECIPES above.",
    )
    attacks: list[str] = Field(
        ["roa", "fia", "pgd"],
        description="Train one adapter against each: [MYNAME=]NAME[:key=value,...][@base|@defended].",
    )
    transfer_attacks: list[str] | None = Field(
        None, description="Attacks to report that are crafted on the base. Default: those of --attacks."
    )
    adaptive_attacks: list[str] | None = Field(
        None, description="Attacks to report that are crafted on each model. Default: those of --attacks."
    )
    adaptive: Literal["own", "all", "none"] = Field(
        "own", description="Adaptive attacks on an adapter: the one it was trained against, all, or none."
    )
    effort: Effort = Field("standard", description=EFFORT)
    max_adaptive_images: Count = Field(
        None, ge=1, description="Reported images to attack adaptively. Default: all reported images."
    )
    target_modules: list[str] = Field(
        default("target_modules"), description="Layers to adapt: a preset, or name patterns."
    )
    rank: Rank | None = Field(
        default("rank"),
        description="Rank of each low-rank update: N; <=N, at most the smaller side of a layer; or PATTERN=N for "
        'layers by name ("layer2*=32,layer4*=4"; others: 4).',
    )
    max_bytes: Bytes | None = Field(
        None, description="In place of a rank: the most that an adapter's weights may take on disk (400kB, 2.5MB)."
    )
    lora_alpha: float | None = Field(
        None, gt=0, description="An update is scaled by lora_alpha / rank. Default: the rank."
    )
    init: Literal["random", "zeros", "svd"] = Field(
        "random", description="Initialization of the factors. zeros: both at zero, as published; it never learns."
    )
    norm: Literal["frozen", "statistics", "affine", "owned"] = Field(
        default("norm"),
        description="What of the normalisation layers is trained and saved with the adapter: nothing, their running "
        "statistics, their gains and biases, or both (owned).",
    )
    attack_target: Literal["base", "defended"] = Field(
        default("attack_target"),
        description="Craft training images on the base (once, kept on disk), or on the adapted model at every step.",
    )
    baselines: bool = Field(
        True, description="Also train fc-only and fc+norm, which show what the low-rank update adds."
    )
    full: bool = Field(
        False,
        description="Also tune every parameter of the base against each attack; every epoch is kept, as large as it.",
    )
    full_learning_rate: float | None = Field(
        None, gt=0, description="Learning rate of --full. Default: a tenth of --learning-rate."
    )
    literal: bool = Field(False, description="Also train each adapter from both factors at zero.")
    distill_weight: float = Field(
        0.0, ge=0, description="Weight of the KL divergence from the base's clean predictions."
    )
    objective: Literal["mixed", "trades", "mart"] = Field(
        "mixed",
        description="Loss: cross-entropy of clean and attacked images (mixed), or cross-entropy and the divergence between "
        "the answers to both (trades, mart).",
    )
    clean_weight: float = Field(
        default("clean_weight"),
        ge=0,
        lt=1,
        description="The dial between clean and robust accuracy: weight of the clean images in the loss, against the attacked "
        "ones, and in the choice of the epoch.",
    )
    train_steps: int = Field(
        default("train_steps"),
        ge=0,
        description="Gradient steps of the attack trained on, within the bounds of --attacks; 1 is N-FGSM in a norm ball, and "
        "a rectangle takes 10 at least. 0 trains on the attack as it is written. Images crafted on the base always are.",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the label that is spread over all classes.")
    weight_perturbation: float = Field(
        0.0,
        ge=0,
        le=1,
        description="AWP: take the gradient at weights that are worse by this relative amount; 0.005 is usual. 0: off.",
    )
    average_decay: float = Field(
        default("average_decay"),
        ge=0,
        lt=1,
        description="Measure and keep an exponential average of the weights with this decay. 0: off.",
    )
    max_grad_norm: float = Field(0.0, ge=0, description="Shorten longer gradients to this length. 0: off.")
    epochs: int = Field(default("epochs"), ge=1, description="Passes over the training images.")
    batch_size: int = Field(128, ge=1, description="Clean images per step, with as many attacked ones.")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="Optimizer.")
    learning_rate: float = Field(default("learning_rate"), gt=0, description="Highest learning rate of the schedule.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of the optimizer.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    schedule: Literal["step", "cosine", "one-cycle", "constant"] = Field(
        default("schedule"), description="Learning rate schedule."
    )
    warm_up: int = Field(0, ge=0, description="Cosine schedule: epochs in which the rate first rises.")
    step_size: int = Field(10, ge=1, description="Step schedule: epochs between two falls.")
    gamma: float = Field(0.1, gt=0, description="Step schedule: factor of each fall.")
    crop: int = Field(4, ge=0, description="Pad by this many pixels (reflected) and crop at random.")
    flip: bool = Field(True, description="Mirror half of the images. Turn it off for digits and letters.")
    cache: Path = Field(default_factory=default_cache, description=CACHE)
    tensorboard: bool = Field(False, description="Write curves for TensorBoard (needs the extra: tensorboard).")

    @model_validator(mode="before")
    @classmethod
    def _take_recipe(cls, settings: Any) -> Any:
        return with_recipe(settings)

    @model_validator(mode="after")
    def _check_rank(self) -> "HardenConfig":
        check_one_of(rank=self.rank, max_bytes=self.max_bytes)
        return self


class CraftConfig(DataConfig):
    """Crafts attacks on a base once and keeps the images: for trainings on the same images, and for others."""

    base: str = Field(..., description=BASE)
    out: Path = Field(Path("runs/craft"), description="Folder for NAME.safetensors: images, and labels.")
    attacks: list[str] = Field(["pgd"], description="[MYNAME=]NAME[:key=value,...].")
    split: Literal["train", "validation", "reported"] = Field(
        "train", description="Which images, of the same splits that harden makes with the same settings."
    )
    shards: int = Field(
        1,
        ge=1,
        le=100_000,
        exclude=True,
        description="In a file of stages: pieces that `loradar run FILE --on` crafts at one time; the images are the same.",
    )
    shard: str | None = Field(
        None,
        pattern=r"^[0-9]{1,6}/[0-9]{1,6}$",
        exclude=True,
        description="Craft this piece alone and keep it in the cache: 0/8 to 7/8. The command without it then merges them.",
    )
    batch_size: int = Field(128, ge=1, description=BATCH_SIZE)
    cache: Path = Field(default_factory=default_cache, description=CACHE)


class AuditConfig(RunConfig):
    """Measures a base and adapters against attacks, writes the report."""

    base: str = Field(..., description=f"{BASE} Or the folder of a few-shot task.")
    adapter: list[Path] = Field([], description="Adapter folder, or hub:OWNER/NAME, to measure beside the base.")
    data: str = Field("digits", description=DATA)
    size: Size | None = Field(
        None,
        description="Run base and images at this size, in pixels. Default: the size that the adapters were trained at, else "
        "the base's input size.",
    )
    attacks: list[str] = Field(["pgd"], description="NAME[:key=value,...].")
    threat: list[Literal["transfer", "adaptive"]] = Field(
        ["transfer", "adaptive"], description="transfer: crafted on the base. adaptive: crafted on the measured model."
    )
    effort: Effort = Field("standard", description=EFFORT)
    max_test_images: Count = Field(None, ge=1, description=MAX_TEST_IMAGES)
    out: Path = Field(Path("runs/audit"), description=REPORT_FOLDER)
    batch_size: int = Field(128, ge=1, description=BATCH_SIZE)
    cache: Path = Field(default_factory=default_cache, description=CACHE)


class PredictConfig(Settings):
    """Classifies pictures with a base, or with an adapter plugged into it."""

    pictures: list[Path] = Field(..., min_length=1, description="Image files of any size.")
    base: str | None = Field(None, description=f"{BASE} Default: the one that the adapter's folder names.")
    adapter: Path | None = Field(
        None, description="Adapter folder, or hub:OWNER/NAME, to plug into the base. Default: the base alone."
    )
    key: Path | None = Field(None, description="Public key; an adapter that its owner did not sign is refused.")
    top: int = Field(
        1, ge=1, description="Most probable classes to print for each picture.", json_schema_extra={"panel": "Output"}
    )
    device: Device = Field("auto", description=DEVICE)
    batch_size: int = Field(64, ge=1, description=BATCH_SIZE)


class ExportConfig(Settings):
    """Writes a model for readers that have no loradar."""

    place: str = Field(..., description="Folder of an adapter, a task or a guard, hub:OWNER/NAME, or a base.")
    to: Literal["onnx", "onnx-int8", "torch-export", "aoti", "state-dict", "timm", "peft"] = Field(
        ..., description="Format."
    )
    base: str | None = Field(None, description="The base, where the folder does not say it or it has moved since.")
    data: str | None = Field(
        None,
        description="Images to compare answers on, and to calibrate int8 on, as harden takes them. Default: random ones.",
    )
    size: Size | None = Field(
        None,
        description="Size of the images, in pixels. Default: the size that the adapter was trained at, else the base's "
        "input size.",
    )
    key: Path | None = Field(None, description="Public key; a folder that its owner did not sign is refused.")
    out: Path | None = Field(None, description="File to write; a folder for timm and peft. Default: the name of PLACE.")


class CheckConfig(Config):
    """Attacks a base for about a minute and says in words what breaks it."""

    base: str = Field(..., description=f"{BASE} Or the folder of a few-shot task.")
    data: str = Field("digits", description=DATA)
    size: Size | None = Field(
        None, description="Run base and images at this size, in pixels. Default: the base's input size."
    )
    attacks: list[str] = Field(
        [], description="[MYNAME=]NAME[:key=value,...]. Default: L-inf, L2 and an occluding rectangle, by image size."
    )
    effort: Effort = Field("quick", description=EFFORT)
    seconds: float = Field(
        60.0,
        gt=0,
        description="Time to aim for, by which the number of images is chosen; 50 are attacked however long it takes.",
    )
    max_test_images: Count = Field(None, ge=1, description="Images to attack. Default: 50 to 500, by --seconds.")
    batch_size: int = Field(128, ge=1, description=BATCH_SIZE)
