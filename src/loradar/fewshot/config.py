"""Settings of meta-tune and the few-shot commands. Imports no torch, so that help is instant."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from loradar.core.config import Config, Count


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
    eps_255: list[float] = Field([0.01, 0.1, 6, 8], description="Radii of the pool's members, in 255ths.")
    attack: str = Field("pgd:steps=2,loss=kl", description="pgd or pyramid, with settings; the radius is a budget.")
    step: float = Field(0.5, gt=0, description="Step of the attack, as a share of the budget.")
    head: Literal["centroid", "ridge"] = Field(
        "centroid", description="What tasks are classified by while tuning; clean meta-tuning keeps centroid."
    )
    target_modules: list[str] = Field(
        [], description="Which layers. Default: attention+mlp, or all-conv where there is none."
    )
    rank: int = Field(8, ge=1, description="Rank of each delta; query, key and value have one each.")
    init: Literal["svd", "random"] = Field("svd", description="svd: from the largest singular values.")
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
    beta: float = Field(1.0, ge=0, description="Beta: how much better scores weigh more.")
    top: int = Field(2, ge=1, description="Members that are blended.")
    rank_keep_ratio: float = Field(0.9, gt=0, le=1, description="Share of the singular values that trimming keeps.")
    head: Literal["centroid", "ridge"] = Field(
        "centroid", description="What the support makes of its features: class means, or a ridge regression."
    )
    n_augmentations: int = Field(2, ge=1, description="Augmented copies of the support that members are scored on.")


class FewShotEvalConfig(BlendConfig):
    """Measures the blended pool and every baseline on few-shot tasks of any domains, writes the report."""

    domain: list[str] = Field(..., min_length=1, description="NAME=SOURCE. May be given several times.")
    in_domain: list[str] = Field([], description="Names of domains like the tuning data; averaged apart.")
    out: Path = Field(Path("runs/few-shot"), description="Folder for the report. A killed run resumes there.")
    setting: list[str] = Field(["5w1s", "5w5s"], description="WAYwSHOTs, or variable. May be given several times.")
    query: int = Field(10, ge=1, description="Query images of each class.")
    episodes: int = Field(600, ge=2, description="Clean tasks a domain and setting.")
    attacks: list[str] = Field(
        ["pgd:radius=4.5/255,step=0.45/255"], description="On the query, of each method's model."
    )
    sweep_attacks: list[str] = Field(
        [], description="Further attacks, on the full method and the main baselines alone."
    )
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
