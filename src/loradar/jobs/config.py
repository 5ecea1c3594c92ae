"""Settings of pretrain, harden and audit. Imports no torch, so that help is instant."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from loradar.core.config import Config, Count


class DataConfig(Config):
    """What every command that reads images has."""

    data: str = Field(
        "digits", description="digits, hub:OWNER/NAME, parquet files, an image folder, cifar-10-batches-py."
    )
    train: Count = Field(None, ge=1, description="Images to train on: a fixed random part. Default: all.")
    validation: int = Field(500, ge=1, description="Images held out to select the epoch; never reported.")
    max_test_images: Count = Field(500, ge=1, description="Images reported: the first so many of the test split.")


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
    max_adaptive_images: Count = Field(
        None, ge=1, description="Reported images for the adaptive rows. Default: --max-test-images."
    )
    target_modules: list[str] = Field(["block-conv1+stem"], description="Preset or patterns: which layers get a delta.")
    rank: int = Field(4, ge=1, description="Rank of each delta.")
    lora_alpha: float | None = Field(None, gt=0, description="Scale is alpha / rank. Default: the rank.")
    init: Literal["random", "zeros", "svd"] = Field("random", description="zeros is the literal start; never learns.")
    norm: Literal["frozen", "owned"] = Field("frozen", description="owned: statistics move and belong to the adapter.")
    attack_target: Literal["base", "defended"] = Field(
        "base", description="base: crafted once, kept on disk. defended: against the plugged model, every step."
    )
    baselines: bool = Field(True, description="Also train fc-only and fc+norm, so that the deltas earn their place.")
    literal: bool = Field(False, description="Also train each adapter from both factors at zero.")
    distill_weight: float = Field(
        0.0, ge=0, description="Weight of staying with the base's answers on clean images (KL)."
    )
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
    attacks: list[str] = Field(["pgd"], description="NAME[:key=value,...]. May be given several times.")
    threat: list[Literal["transfer", "adaptive"]] = Field(
        ["transfer", "adaptive"], description="transfer: crafted on the base. adaptive: on the measured model."
    )
    max_test_images: Count = Field(500, ge=1, description="Images: the first so many of the test split.")
    out: Path = Field(Path("runs/audit"), description="Folder for report.json, report.md, report.html.")
    batch_size: int = Field(128, ge=1, description="Images a forward pass.")
    cache: Path = Field(Path("~/.cache/loradar"), description="Where attacked images are kept between runs.")
