"""Few-shot evaluation: every method on the same tasks of every domain, and the report."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loradar.adapters import AdapterPool, fingerprint
from loradar.attacks import named_attacks
from loradar.core.config import check_run_settings
from loradar.core.errors import BadConfigError
from loradar.core.leases import lease
from loradar.core.names import check_names
from loradar.core.types import Attack, NullProgress, Progress
from loradar.fewshot.blending import Blending
from loradar.fewshot.config import FewShotEvalConfig
from loradar.fewshot.episode import Sampler, parse_setting
from loradar.fewshot.measuring import Measuring, Results
from loradar.fewshot.methods import methods, peers
from loradar.fewshot.pools import FeatureCache, PoolModels, base_of, head_of_pool, open_baselines, open_pool
from loradar.fewshot.reporting import make_report
from loradar.fewshot.search import Chooser, search, validation_engines
from loradar.fewshot.tasks import Domain, named_domain
from loradar.models import Base, open_base
from loradar.report.few_shot import FewShotRow
from loradar.report.files import write_report
from loradar.report.schema import Report


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShotEvalJob:
    """A pool on its base, the domains and settings to draw tasks from, and the attacks. `search` holds validation tasks."""

    config: FewShotEvalConfig
    base: Base
    models: PoolModels
    domains: Sequence[Domain]
    samplers: Mapping[str, Sampler]
    attacks: Sequence[Attack]
    sweep_attacks: Sequence[Attack]
    search: Domain | None


@dataclass(frozen=True, kw_only=True, eq=False)
class FewShotEvalResult:
    """The report, and the path of its page."""

    report: Report
    page: Path


def resolve(
    config: FewShotEvalConfig,
    *,
    base: Base | None = None,
    pool: AdapterPool | None = None,
    domains: Sequence[Domain] | None = None,
) -> FewShotEvalJob:
    """Opens the pool, its baselines and the domains, and checks that tasks can be drawn; nothing long, nothing written.

    `base`, `pool` (then without baselines) and `domains` in memory take the place of what `config` names. Raises
    LoradarError.
    """
    asked = [*config.attacks, *config.sweep_attacks]
    attacks = list(named_attacks(asked).values()) if asked and config.attacked_episodes else []
    samplers = {setting: parse_setting(setting, query=config.query) for setting in config.setting}
    baselines = open_baselines(config.pool) if pool is None else {}
    pool = open_pool(config.pool) if pool is None else pool
    base = open_base(config.base or base_of(config.pool), config.device) if base is None else base
    models = PoolModels.of(
        base.model,
        pool,
        baselines=baselines,
        precision=config.precision,
        n_augmentations=config.n_augmentations,
        seed=config.seed,
    )
    size = base.input_size[1:]
    if domains is None:
        domains = [named_domain(text, size=size, seed=config.seed) for text in config.domain]
    chosen_on = named_domain(config.search, size=size, seed=config.seed) if config.search else None
    _check(config, domains, samplers, chosen_on)
    return FewShotEvalJob(
        config=config,
        base=base,
        models=models,
        domains=domains,
        samplers=samplers,
        attacks=attacks[: len(config.attacks)],
        sweep_attacks=attacks[len(config.attacks) :],
        search=chosen_on,
    )


def parts(config: FewShotEvalConfig) -> dict[str, tuple[str, ...]]:
    """What may be done apart before `run`, and by several machines: the tasks of each domain.

    None where there is something to search: every part would search it.
    """
    return {} if config.search else {text.partition("=")[0]: () for text in config.domain}


def run_part(job: FewShotEvalJob, name: str, progress: Progress | None = None) -> None:
    """Measures the tasks of the domain `name`; `run` then finds their figures."""
    _check_settings(job.config)
    measuring, _ = _measuring(job, progress or NullProgress())
    for domain in job.domains:
        if domain.name == name:
            _measured_domain(measuring, job, domain, progress or NullProgress())


def run(job: FewShotEvalJob, *, progress: Progress | None = None) -> FewShotEvalResult:
    """Measures every task, and writes report.json, report.md and report.html into the out folder.

    Every task leaves its figures below `work/` there, and is not measured again. Raises BadConfigError where the folder
    holds a run with other settings.
    """
    with lease(job.config.out, wait=job.config.wait, progress=progress):
        return _measured(job, progress or NullProgress())


def _measured(job: FewShotEvalJob, progress: Progress) -> FewShotEvalResult:
    config = job.config
    _check_settings(config)
    measuring, searched = _measuring(job, progress)
    rows: list[FewShotRow] = []
    found: dict[tuple[str, str], list[Results]] = {}
    for domain in job.domains:
        for name, results in _measured_domain(measuring, job, domain, progress).items():
            found[domain.name, name] = results
            rows += measuring.rows(domain.name, name, results)
    first = next(iter(job.samplers.items()))
    report = make_report(measuring, job.base, job.domains, first, rows, found, searched=searched)
    return FewShotEvalResult(report=report, page=write_report(report, config.out))


def _check_settings(config: FewShotEvalConfig) -> None:
    check_run_settings(config, "episodes", "attacked_episodes", "corrupted_episodes", "fine_tune_episodes", "precision")


def _measuring(job: FewShotEvalJob, progress: Progress) -> tuple[Measuring, Blending | None]:
    config, models = job.config, job.models
    full = Blending.of(config, head_of_pool(models.pool))
    sampler = next(iter(job.samplers.values()))
    engines = validation_engines(config, models, sampler, job.search) if job.search else []
    choose = Chooser.fitted(engines) if engines else None
    searched = search(engines, full, progress) if engines else None
    measuring = Measuring(
        config=config,
        models=models,
        methods=tuple(methods(models, full, config, searched=searched, choose=choose)),
        peers=tuple(peers()),
        attacks=tuple(job.attacks),
        sweep_attacks=tuple(job.sweep_attacks),
        full=full,
        directory=config.out / "work" / _identity(models),
    )
    return measuring, searched


def _measured_domain(
    measuring: Measuring, job: FewShotEvalJob, domain: Domain, progress: Progress
) -> dict[str, list[Results]]:
    """The figures of every task of a domain, by setting."""
    with lease(measuring.directory / domain.name, wait=job.config.wait, progress=progress, beside=True):
        cache = FeatureCache.of_domain(job.models, domain, job.config.batch_size)
        return {name: measuring.domain(cache, domain, name, drawn, progress) for name, drawn in job.samplers.items()}


def _check(
    config: FewShotEvalConfig, domains: Sequence[Domain], samplers: Mapping[str, Sampler], chosen_on: Domain | None
) -> None:
    """Raises BadConfigError, BadDataError for what would only be found after long work."""
    names = [domain.name for domain in domains]
    check_names(names, "a domain")
    if len(set(names)) != len(names):
        raise BadConfigError(f"domains are called {names}; give each another name")
    for name in config.in_domain:
        if name not in names:
            raise BadConfigError(f"in_domain names {name!r}; expected one of the domains: {', '.join(names)}")
    if config.dial and config.score != "held-out":
        raise BadConfigError(f"dial turns the score held-out, not {config.score}; leave it out, or the other score")
    if len({config.robust, *config.dial}) != 1 + len(config.dial) or not all(0 <= at <= 1 for at in config.dial):
        raise BadConfigError(
            f"dial is {config.dial} beside robust {config.robust:g}; expected other values from 0 to 1, none twice"
        )
    if config.attacked_episodes and config.attacked_query > config.query:
        raise BadConfigError(f"attacked_query is {config.attacked_query}; expected at most query, {config.query}")
    for domain in domains:
        for sampler in samplers.values():
            domain.episode(sampler, 0)
        if chosen_on is not None and domain.images.fingerprint == chosen_on.images.fingerprint:
            raise BadConfigError(
                f"search has the images of the domain {domain.name!r}, whose figures it would flatter; give it other images"
            )
    if chosen_on is not None:
        chosen_on.episode(next(iter(samplers.values())), 0)


def _identity(models: PoolModels) -> str:
    """Names the weights that figures belong to: other weights, other figures."""
    marks = "".join(fingerprint(model) for model in models.fixed.values())
    return hashlib.sha256(marks.encode()).hexdigest()[:12]
