"""Settings of meta-tune and the few-shot commands. Imports no torch, so that help is instant."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from loradar.core.config import BASE, BATCH_SIZE, DATA, REPORT_FOLDER, Count, RunConfig
from loradar.core.ranks import Rank
from loradar.fewshot.presets import PRESETS, Preset

_default = PRESETS.of_default

SUPPORT_ATTACK = "pgd:eps=4/255,step_size=1/255,steps=5"
"""What images that were left out are attacked with."""
POOL = "Folder of a pool, as meta-tune writes it, or hub:OWNER/NAME."


class MetaTuneConfig(RunConfig):
    """Meta-tunes a pool of adapters, each against its own eps, and the baselines beside it."""

    base: str = Field(..., description=f"{BASE} stages:BASE reads features of several stages.")
    preset: Preset = Field(
        "standard", description="Settings to start from, each of which a flag of its own may change: see PRESETS above."
    )
    data: str = Field(..., description=f"{DATA} Many classes make better pools; labels matter to tasks alone.")
    images_per_class: Count = Field(None, ge=2, description="Use the first images of each class. Default: all.")
    validation_data: str | None = Field(
        None, description="Source of the tasks that select the epoch. Default: classes held out of --data."
    )
    validation_classes: int = Field(
        16, ge=2, description="Classes of --data to hold out, where there is no --validation-data."
    )
    validation_episodes: int = Field(
        _default("validation_episodes"), ge=1, description="Validation tasks that select the epoch."
    )
    objective: Literal["features", "tasks"] = Field(
        _default("objective"),
        description="What members learn. features: attacked images keep the features that the base has of them clean; tasks: "
        "to answer few-shot tasks, clean and attacked.",
    )
    out: Path = Field(Path("runs/pool"), description="Folder for the pool.")
    setting: str = Field(
        "5w5s",
        description="Task: WAYwSHOTs, such as 5w1s, or variable. A pool works best at the shots that it was tuned for.",
    )
    query: int = Field(10, ge=1, description="Query images per class.")
    eps_255: list[float] = Field(
        _default("eps_255"), description="Perturbation size (eps) of a member of the pool, in 255ths."
    )
    attack: str = Field(
        _default("attack"),
        description="fgsm, pgd or pyramid, with settings; each member sets its own perturbation size.",
    )
    step: float = Field(
        _default("step"), gt=0, description="Step size of the attack, as a share of the perturbation size."
    )
    head: Literal["centroid", "ridge"] = Field(
        _default("head"),
        description="Classifier of the tasks while tuning, and of the pool; clean meta-tuning always uses centroid.",
    )
    target_modules: list[str] = Field(
        [],
        description="Layers to adapt. Default: attention+mlp or all-conv, whichever is most of the model, else auto.",
    )
    rank: Rank = Field(
        _default("rank"),
        description="Rank of each low-rank update, as harden takes it; query, key and value have one each.",
    )
    norm: Literal["frozen", "statistics", "affine", "owned"] = Field(
        _default("norm"), description="What of the normalisation layers is a member's own, as for harden."
    )
    init: Literal["svd", "random"] = Field(
        _default("init"), description="Initialization of the factors. svd: from the largest singular values."
    )
    perturbation: Literal["raw", "relative", "none"] = Field(
        _default("perturbation"), description="Objective tasks: adversarial weight perturbation of the factors."
    )
    perturbation_step: float = Field(1e-4, gt=0, description="raw: the gradient is scaled by this, each factor alone.")
    gamma: float = Field(
        5e-3, ge=0, description="relative: size of the perturbation, as a share of each factor's norm."
    )
    kl: Literal["clean-attacked", "attacked-clean"] = Field(
        "clean-attacked",
        description="Objective tasks: direction of the KL divergence between clean and attacked predictions.",
    )
    adversarial_weight: float = Field(
        6.0, ge=0, description="Objective tasks: weight of the divergence, added to the clean loss."
    )
    epochs: int = Field(_default("epochs"), ge=1, description="Epochs; each ends with the validation tasks.")
    episodes: int = Field(
        _default("episodes"), ge=1, description="Steps per epoch: one task each, or one batch of images."
    )
    batch_size: int = Field(_default("batch_size"), ge=2, description="Objective features: images per step.")
    optimizer: Literal["adamw", "sgd"] = Field(_default("optimizer"), description="Optimizer of the members.")
    average_decay: float = Field(
        _default("average_decay"), ge=0, lt=1, description="Keep an exponential average of the weights. 0: off."
    )
    learning_rate: float = Field(_default("learning_rate"), gt=0, description="Peak of the cosine schedule.")
    clean_learning_rate: float | None = Field(
        _default("clean_learning_rate"),
        gt=0,
        description="Learning rate of clean meta-tuning, which trains every weight. Default: --learning-rate.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    warm_up: int = Field(_default("warm_up"), ge=0, description="Epochs in which the learning rate rises.")
    baselines: bool = Field(
        _default("baselines"),
        description="Also train all weights on clean tasks, and one adapter against random perturbation sizes.",
    )
    ablations: bool = Field(False, description="Also train one adapter without weight perturbation.")
    member: list[str] = Field([], description="Train this member alone (to use several machines).")

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, settings: Any) -> Any:
        return PRESETS.filled(settings)


class BlendConfig(RunConfig):
    """Settings of every command that blends a pool."""

    base: str | None = Field(None, description="The base. Default: the one that the pool was tuned on.")
    score: Literal["held-out", "compactness", "loss", "attacked"] = Field(
        "held-out",
        description="Score of a member: its answers to images of the support that were left out, with the base as a member; "
        "or, without the base, compactness as in the paper, its loss on the support, or on the attacked support.",
    )
    robust: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Score held-out: the dial between the best clean accuracy (0) and the most robust (1).",
    )
    support_attack: str = Field(SUPPORT_ATTACK, description="Score held-out: the attack on left-out images.")
    compactness: float = Field(
        0.6, ge=0, le=1, description="Score compactness: weight of closeness against separation."
    )
    beta: float = Field(1.0, ge=0, description="How strongly better scores gain weight; 0 weighs all alike.")
    top: int = Field(
        1,
        ge=1,
        description="Members to blend, at most; by score held-out the base counts as one, and 1 was as good as "
        "more. The paper's score compactness blends 2.",
    )
    rank_keep_ratio: float = Field(1.0, gt=0, le=1, description="Share of the singular values that truncation keeps.")
    head: Literal["centroid", "ridge"] | None = Field(
        None,
        description="Classifier of the features: class means, or ridge regression. Default: the pool's, ridge without one.",
    )
    n_augmentations: int = Field(
        2,
        ge=1,
        description="Augmented copies of the support to score members on (held-out: where a class has one image).",
    )


class FewShotEvalConfig(BlendConfig):
    """Measures the blended pool and every baseline on few-shot tasks of any domain, writes the report."""

    pool: Path = Field(..., description=POOL)
    domain: list[str] = Field(..., min_length=1, description="NAME=SOURCE of the images to make tasks of.")
    in_domain: list[str] = Field([], description="Name of a domain that is like the tuning data; averaged apart.")
    out: Path = Field(Path("runs/few-shot"), description=REPORT_FOLDER)
    setting: list[str] = Field(["5w1s", "5w5s"], description="Task: WAYwSHOTs, such as 5w1s, or variable.")
    query: int = Field(10, ge=1, description="Query images per class.")
    episodes: int = Field(600, ge=2, description="Clean tasks per domain and setting.")
    attacks: list[str] = Field(
        ["pgd:eps=4.5/255,step_size=0.45/255"],
        description="Attack on the query images, crafted on each method's model.",
    )
    sweep_attacks: list[str] = Field([], description="Further attack, on the full method and the main baselines alone.")
    attacked_episodes: int = Field(100, ge=0, description="Tasks per attack; 0 leaves attacks out.")
    attacked_query: int = Field(5, ge=1, description="Attacked query images per class.")
    corrupted_episodes: int = Field(
        75, ge=0, description="Tasks with corrupted query images: 15 corruptions at 5 severities."
    )
    dial: list[float] = Field(
        [], description="Score held-out: further value of --robust; with several, the curve between clean and robust."
    )
    search: str | None = Field(
        None,
        description="NAME=SOURCE of validation tasks that choose members and how to blend. Default: nothing is chosen.",
    )
    search_episodes: int = Field(30, ge=2, description="Validation tasks of --search.")
    transductive: bool = Field(True, description="Also measure transductive answers: all queries of a task at once.")
    ablations: bool = Field(True, description="Also measure each component on and off, pool sizes and top-k.")
    fine_tune_episodes: int = Field(
        0, ge=0, description="Clean tasks on which the blended weights are also fine-tuned."
    )
    batch_size: int = Field(128, ge=1, description=BATCH_SIZE)


class FewShotFitConfig(BlendConfig):
    """Makes an adapter for one task out of a folder of images by class."""

    pool: Path | None = Field(None, description=f"{POOL} Default: none; the base stays as it is.")
    support: str = Field(..., description="A folder with a folder of images per class, or any other source.")
    out: Path = Field(Path("runs/task"), description="Folder for the adapter.")
    shot: Count = Field(None, ge=1, description="Images of each class to use. Default: all.")
    rank: Count = Field(None, ge=1, description="Truncate the result to this rank and print the error. Default: exact.")
    fine_tune: bool = Field(
        False,
        description="Then fine-tune every weight on the images (AMT-FT): slower, and a file as large as the base.",
    )
