"""Meta-tuning: a pool of adapters that share one start, each against its own budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loradar.adapters import Adapter, init_adapter, target_share
from loradar.attacks import parse_attack
from loradar.core.config import check_run_settings
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.temporaries import remove_abandoned
from loradar.core.types import Attack, NullProgress, Progress
from loradar.data import Source, load_source
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.episode import parse_setting
from loradar.fewshot.heads import CENTROID, HeadConfig
from loradar.fewshot.meta_train import FREE, Kind, MetaMember, MetaTuneJob, counts_of, seconds_of, train_member
from loradar.fewshot.pools import targets_of
from loradar.fewshot.presets import PRESETS
from loradar.fewshot.ridge import PENALTY
from loradar.fewshot.tasks import Domain, first_of_each, split_classes
from loradar.models import Base, open_base
from loradar.training import FitSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class MetaTuneResult:
    """The members of the pool and the baselines that were asked for, by name, and the folder that holds them."""

    members: Mapping[str, Adapter]
    baselines: Mapping[str, Adapter]
    folder: Path


def resolve(
    config: MetaTuneConfig,
    *,
    base: Base | None = None,
    source: Source | None = None,
    validation: Source | None = None,
) -> MetaTuneJob:
    """Opens the base and the data, draws a task of each, and makes the common start; nothing is written.

    `base`, `source` and `validation` in memory take the place of what `config` names. Raises LoradarError.
    """
    members = plan(config)
    sampler = parse_setting(config.setting, query=config.query)
    settings = _settings(config)
    base = open_base(config.base, config.device) if base is None else base
    size = base.input_size[1:]
    source = load_source(config.data, size=size) if source is None else source
    if validation is None and config.validation_data is not None:
        validation = load_source(config.validation_data, size=size)
    tuning, held_out = _domains(config, source, validation)
    for domain in (tuning, held_out):
        domain.episode(sampler, 0)
    return MetaTuneJob(
        config=config,
        base=base,
        tuning=tuning,
        validation=held_out,
        sampler=sampler,
        members=members,
        settings=settings,
        start=_start(config, base),
    )


def parts(config: MetaTuneConfig) -> dict[str, tuple[str, ...]]:
    """What may be done apart before `run`, and by several machines: every training. None waits for another."""
    return {one.name: () for one in plan(config) if not config.member or one.name in config.member}


def estimate(job: MetaTuneJob) -> dict[str, float]:
    """Seconds of each of the `parts`, from one step and one validation task."""
    counts = counts_of(job.config)
    return {
        one.name: sum(count * each for count, each in zip(counts, seconds_of(one, job), strict=True))
        for one in job.members
        if one.name in parts(job.config)
    }


def run_part(job: MetaTuneJob, name: str, progress: Progress | None = None) -> None:
    """Does the training `name` of `parts`; `run` then finds it finished."""
    check_run_settings(job.config, *FREE)
    train_member(next(one for one in job.members if one.name == name), job, progress or NullProgress())


def run(job: MetaTuneJob, *, progress: Progress | None = None) -> MetaTuneResult:
    """Trains the members that are asked for; the out folder then holds `pool/NAME` and `baselines/NAME`.

    Each training is independent of the others (`member` picks some, for several machines) and continues where it was
    killed. Objective tasks: Yang et al., "Mixture of Adversarial LoRAs", 2024, sections 3.1 and 3.2. Raises LoradarError.
    """
    config = job.config
    check_run_settings(config, *FREE)
    remove_abandoned(config.out)  # several machines may fill the folder: each training has a lease of its own
    progress, model = progress or NullProgress(), job.base.model
    share = target_share(model, job.start.deltas)
    progress.message(f"members change {len(job.start.deltas)} layers, {share:.0%} of the parameters below the head")
    progress.message(f"preset {config.preset}: {PRESETS.about[config.preset]}")
    asked = [one for one in job.members if not config.member or one.name in config.member]
    trained = [(one, train_member(one, job, progress)) for one in asked]
    return MetaTuneResult(
        members={one.name: adapter for one, adapter in trained if one.is_pooled},
        baselines={one.name: adapter for one, adapter in trained if not one.is_pooled},
        folder=config.out,
    )


def plan(config: MetaTuneConfig) -> tuple[MetaMember, ...]:
    """Every training, the pool first. Raises BadConfigError for budgets or members that do not fit."""
    if not config.eps_255 or len(set(config.eps_255)) != len(config.eps_255):
        raise BadConfigError(f"budgets are {config.eps_255}; expected one or more, none of them twice")
    if config.objective == "features" and (config.perturbation != "none" or config.ablations):
        raise BadConfigError(
            "objective features perturbs no weights; leave perturbation and ablations out, or take objective tasks"
        )
    attacks = tuple(_attack(config, budget) for budget in config.eps_255)
    head = HeadConfig(kind=config.head, penalty=PENALTY)
    found = [
        MetaMember(name=f"eps-{budget:g}", kind="member", attacks=(attack,), head=head)
        for budget, attack in zip(config.eps_255, attacks, strict=True)
    ]
    if config.baselines:
        found.append(MetaMember(name="clean", kind="clean", attacks=(), head=CENTROID))  # as published
        found.append(MetaMember(name="random-budget", kind="random-budget", attacks=attacks, head=head))
    if config.ablations:
        name: Kind = "random-budget-unperturbed"
        found.append(MetaMember(name=name, kind=name, attacks=attacks, head=head))
    for wanted in config.member:
        if wanted not in {one.name for one in found}:
            raise BadConfigError(f"there is no member {wanted!r}; {did_you_mean(wanted, [one.name for one in found])}")
    return tuple(found)


def _attack(config: MetaTuneConfig, budget: float) -> Attack:
    name, _, settings = config.attack.partition(":")
    if name not in ("fgsm", "pgd", "pyramid"):
        raise BadConfigError(f"attack is {config.attack!r}; expected fgsm, pgd or pyramid, with settings")
    for taken in ("eps", "step_size"):
        if any(part.partition("=")[0].strip() == taken for part in settings.split(",")):
            raise BadConfigError(f"attack sets {taken}, which follows from --eps-255 and --step; leave it out")
    own = f"eps={budget}/255,step_size={budget * config.step}/255"
    return parse_attack(f"{name}:{settings},{own}" if settings else f"{name}:{own}")


def _domains(config: MetaTuneConfig, source: Source, validation: Source | None) -> tuple[Domain, Domain]:
    if validation is None:
        tuning, held_out = split_classes(
            source.train, held_out=config.validation_classes, per_class=config.images_per_class, seed=config.seed
        )
    else:
        tuning, held_out = first_of_each(source.train, config.images_per_class), validation.train
    return (
        Domain(name="tuning data", images=tuning, seed=config.seed),
        Domain(name="validation data", images=held_out, seed=config.seed),
    )


def _settings(config: MetaTuneConfig) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        batch_size=1,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        nesterov=False,
        schedule="cosine",
        warm_up=config.warm_up,
        seed=config.seed,
    )


def _start(config: MetaTuneConfig, base: Base) -> Adapter:
    """What every member starts from: the same factors, by one decomposition of each weight."""
    return init_adapter(
        base.model,
        target_modules=targets_of(base.model, config.target_modules),
        rank=config.rank,
        init=config.init,
        norm=config.norm,
        head=False,
        fused="split",
        seed=config.seed,
        name="start",
    )
