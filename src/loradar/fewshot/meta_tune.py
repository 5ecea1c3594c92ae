"""Meta-tuning: a pool of adapters that share one start, each against its own budget, on few-shot tasks."""

from pathlib import Path

from loradar.adapters import Adapter, feature_extractor, init_adapter
from loradar.core.config import check_run_settings
from loradar.core.types import NullProgress, Progress
from loradar.data import load_source
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.episode import parse_setting
from loradar.fewshot.meta_members import plan
from loradar.fewshot.meta_train import FREE, MetaBench, train_member
from loradar.fewshot.pools import targets_of
from loradar.fewshot.tasks import Domain, first_of_each, split_classes
from loradar.models import Base, open_base
from loradar.training import FitSettings


def meta_tune(config: MetaTuneConfig, *, progress: Progress | None = None) -> Path:
    """Trains what `config` asks for; returns the folder, which then holds `pool/NAME` and `baselines/NAME`.

    Each training is independent of the others (`member` picks some, for several machines) and goes on where it was
    killed. Yang et al., "Mixture of Adversarial LoRAs", 2024, sections 3.1 and 3.2. Raises LoradarError.
    """
    members = plan(config)
    sampler = parse_setting(config.setting, query=config.query)
    base = open_base(config.base, config.device)
    tuning, validation = _domains(config, base)
    for domain in (tuning, validation):
        domain.episode(sampler, 0)
    bench = MetaBench(
        config=config,
        base=base,
        tuning=tuning,
        validation=validation,
        sampler=sampler,
        features=feature_extractor(base.model),
        settings=_settings(config),
        progress=progress or NullProgress(),
    )
    start = _start(bench, "start")
    check_run_settings(config, *FREE)
    for member in members:
        if not config.member or member.name in config.member:
            train_member(member, bench, start)
    return config.out


def _domains(config: MetaTuneConfig, base: Base) -> tuple[Domain, Domain]:
    size = base.input_size[1:]
    images = load_source(config.data, size=size).train
    if config.validation_data is None:
        tuning, held_out = split_classes(
            images, held_out=config.validation_classes, per_class=config.images_per_class, seed=config.seed
        )
    else:
        tuning, held_out = (
            first_of_each(images, config.images_per_class),
            load_source(config.validation_data, size=size).train,
        )
    return (
        Domain(name="tuning data", images=tuning, seed=config.seed),
        Domain(name="validation data", images=held_out, seed=config.seed),
    )


def _settings(config: MetaTuneConfig) -> FitSettings:
    return FitSettings(
        epochs=config.epochs,
        batch_size=1,
        optimizer="sgd",
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        nesterov=False,
        schedule="cosine",
        warm_up=config.warm_up,
        seed=config.seed,
    )


def _start(bench: MetaBench, name: str) -> Adapter:
    """What every member starts from: the same factors, by one decomposition of each weight."""
    config, model = bench.config, bench.base.model
    return init_adapter(
        model,
        target_modules=targets_of(model, config.target_modules),
        rank=config.rank,
        init=config.init,
        head=False,
        fused="split",
        seed=config.seed,
        name=name,
    )
