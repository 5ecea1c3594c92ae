"""Attacks a guard as a whole, and beside it everything it is made of: one report, the union accuracy first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loradar.adapters import Adapter, load_named
from loradar.adapters.fits import check_base
from loradar.attacks import named_attacks, parse_attack
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.files import make_folder
from loradar.core.types import Attack, Progress
from loradar.data import CORRUPTIONS, Source, Splits, fetch_all, load_source, split
from loradar.evaluation import check_classes, check_unseen, versions
from loradar.evaluation.corruptions import Corrupted
from loradar.evaluation.workbench import open_bench
from loradar.guard.calibration_split import refuse_calibrated
from loradar.guard.config import GuardAuditConfig
from loradar.guard.figures import TrafficVerdicts, cost_of, identification_of, reliabilities_of, suspects_of
from loradar.guard.fusion import RULES, Rule
from loradar.guard.guard import Guard
from loradar.guard.measuring import GuardMeasuring, list_candidates
from loradar.guard.surrogate import STATEMENT
from loradar.guard.tally import UNION
from loradar.report.files import write_report
from loradar.report.guards import GuardSection
from loradar.report.schema import BASE, Report


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardAuditJob:
    """A guard, and what it is measured with.

    `candidates` are adapters to measure beside it; `attacks` are measured, `known` are those that the guard identifies, and
    `unfitted` those that its identifier was not fitted on. `splits.reported` are the images.
    """

    config: GuardAuditConfig
    guard: Guard
    candidates: Mapping[str, Adapter]
    attacks: Mapping[str, Attack]
    known: Mapping[str, Attack]
    unfitted: Mapping[str, Attack]
    rules: tuple[Rule, ...]
    splits: Splits
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardAuditResult:
    """The report, and the path of its page."""

    report: Report
    page: Path


def resolve(
    config: GuardAuditConfig,
    *,
    guard: Guard | None = None,
    candidates: Mapping[str, Adapter] | None = None,
    source: Source | None = None,
    attacks: Mapping[str, Attack] | None = None,
) -> GuardAuditJob:
    """Opens what `config` names and checks that it fits; nothing long is done and nothing is written.

    Objects in memory take the place of what `config` names. Raises LoradarError.
    """
    rules = _rules(config.fusion)
    if guard is None:
        guard = Guard.open(config.guard, base=config.base, device=config.device, precision=config.precision)
    base, record = guard.state.base, guard.state.record
    given = attacks or {}
    if attacks is None and config.attacks:
        given = named_attacks(config.attacks)
    known = {name: given[name] if name in given else parse_attack(spec) for name, spec in record.attacks.items()}
    unfitted = {spec: _unfitted(spec) for spec in config.unfitted}
    candidates = load_named(config.candidate) if candidates is None else candidates
    if both := set(candidates) & set(guard.state.adapters):
        raise BadConfigError(f"{min(both)!r} is an adapter of the guard already; name other candidates")
    source = load_source(config.data, size=base.input_size[1:]) if source is None else source
    check_classes(base, source)
    splits = split(source, reported=config.max_test_images, seed=config.seed)
    refuse_calibrated(splits.reported, record.digests)
    for adapter in (*guard.state.adapters.values(), *candidates.values()):
        check_base(adapter, record.base_fingerprint)
        check_unseen(adapter.card, source, splits.record)
    return GuardAuditJob(
        config=config,
        guard=guard,
        candidates=candidates,
        attacks=given or known,
        known=known,
        unfitted=unfitted,
        rules=rules,
        splits=splits,
        classes=tuple(base.classes or source.classes),
    )


def run(job: GuardAuditJob, *, progress: Progress | None = None) -> GuardAuditResult:
    """Measures the guard, and writes report.json, report.md and report.html into the out folder."""
    config, guard = job.config, job.guard
    make_folder(config.out)
    bench = open_bench(guard.state.base, config, progress)
    x, y = fetch_all(job.splits.reported)
    candidates = list_candidates(bench, guard, job.candidates, job.rules)
    voters = {one.name: one.target for one in candidates if one.name in guard.settings.voters}
    measuring = GuardMeasuring(bench=bench, guard=guard, voters=voters, config=config, attacks=job.attacks, x=x, y=y)
    tally = measuring.tally(candidates)
    verdicts = _verdicts(job, measuring)
    rows = (*tally.unions(), *tally.mixtures(), *tally.rows(), *measuring.certificate())
    report = Report(
        title="Guard report",
        rows=rows,
        base=bench.describe(),
        data={name: value for name, value in job.splits.record.items() if name != "duplicates"}
        | {"calibration": guard.state.record.data},
        versions=versions(),
        settings=bench.settings(config) | {"guard": _settings(guard)},
        # the saved guard is the first candidate
        baselines=tuple({row.model: None for row in rows if row.model not in (candidates[0].name, BASE)}),
        guard=GuardSection(
            identification=identification_of(verdicts, guard.settings.labels),
            cost=cost_of(verdicts, guard),
            reliabilities=reliabilities_of(verdicts, guard),
            suspects=suspects_of(verdicts, guard, job.classes, job.known),
        ),
        notes=(STATEMENT, UNION),
    )
    return GuardAuditResult(report=report, page=write_report(report, config.out))


def _verdicts(job: GuardAuditJob, measuring: GuardMeasuring) -> TrafficVerdicts:
    """Runs the guard on clean images, on transferred attacks, and on attacks that it does not know."""
    images = {"clean": measuring.x}
    images |= {name: measuring.transferred(attack) for name, attack in job.known.items()}
    unfitted = {name: measuring.transferred(attack) for name, attack in job.unfitted.items()}
    batch_size, uncascaded = job.config.batch_size, job.guard.replace(cascade=False)
    return TrafficVerdicts(
        y=measuring.y,
        images=images,
        known={name: job.guard.predict_full(x, batch_size=batch_size) for name, x in images.items()},
        unfitted={name: job.guard.predict_full(x, batch_size=batch_size) for name, x in unfitted.items()},
        uncascaded={name: uncascaded.predict_full(x, batch_size=batch_size) for name, x in images.items()},
    )


def _rules(names: Sequence[str]) -> tuple[Rule, ...]:
    for name in names:
        if name not in RULES:
            raise BadConfigError(f"there is no fusion {name!r}; {did_you_mean(name, RULES)}")
    return tuple(rule for rule in RULES if rule in names)


def _unfitted(spec: str) -> Attack:
    return Corrupted(corruption=spec) if spec in CORRUPTIONS else parse_attack(spec)


def _settings(guard: Guard) -> dict[str, object]:
    settings, record = guard.settings, guard.state.record
    return {
        "fusion": settings.fusion,
        "base_votes": settings.base_votes,
        "abstain": settings.abstain,
        "cascade": settings.cascade,
        "gate": round(settings.gate, 4),
        "prior": {label: round(times, 4) for label, times in settings.prior.items()},
        "adapters": list(guard.state.adapters),
        "specialists": dict(settings.specialists),
        "temperatures": {name: round(each.temperature, 3) for name, each in settings.calibrations.items()},
        "weights": {name: round(each.weight, 3) for name, each in settings.calibrations.items()},
        "responses": {threat: list(defenses) for threat, defenses in settings.policy.responses.items()},
        "masker": settings.masker,
        "forwards": {name: round(cost, 4) for name, cost in record.costs.items()},
    }
