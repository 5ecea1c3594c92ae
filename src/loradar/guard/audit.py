"""Attacks a guard as a whole, and beside it everything it is made of: one report, the union accuracy first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loradar.adapters import Adapter, load_named
from loradar.adapters.fits import check_base
from loradar.attacks import named_attacks, parse_attack
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.leases import lease
from loradar.core.randomness import mix
from loradar.core.types import Attack, Images, Progress
from loradar.data import BENIGN_KINDS, CORRUPTIONS, Source, Splits, change_benignly, fetch_all, load_source, split
from loradar.evaluation import AccuracyResult, check_classes, check_unseen, versions
from loradar.evaluation.corruptions import Corrupted
from loradar.evaluation.workbench import open_bench
from loradar.guard.calibration_split import refuse_calibrated
from loradar.guard.config import GuardAuditConfig
from loradar.guard.figures import (
    TrafficVerdicts,
    alarms_of,
    cost_of,
    detections_of,
    identification_of,
    reliabilities_of,
    suspects_of,
)
from loradar.guard.fusion import RULES, Rule
from loradar.guard.guard import Guard, Verdict
from loradar.guard.measuring import GuardMeasuring, list_candidates
from loradar.guard.surrogate import STATEMENT
from loradar.guard.tally import UNION
from loradar.report.files import write_report
from loradar.report.guards import GuardSection
from loradar.report.schema import BASE, Report

_DRAWS = 0xA0D1


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardAuditJob:
    """A guard, and what it is measured with.

    `candidates` are adapters to measure beside it; `attacks` are measured, `known` are those that the guard identifies,
    `strange` those that it was fitted to call unknown, and `unfitted` those that it was not fitted on. `splits.reported`
    are the images.
    """

    config: GuardAuditConfig
    guard: Guard
    candidates: Mapping[str, Adapter]
    attacks: Mapping[str, Attack]
    known: Mapping[str, Attack]
    strange: Mapping[str, Attack]
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
    fitted = (*record.attacks.values(), *record.strangers)
    unfitted = {spec: attack for spec in config.unfitted if (attack := _unfitted(spec)).spec not in fitted}
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
        strange={spec: parse_attack(spec) for spec in record.strangers},
        unfitted=unfitted,
        rules=rules,
        splits=splits,
        classes=tuple(base.classes or source.classes),
    )


def run(job: GuardAuditJob, *, progress: Progress | None = None) -> GuardAuditResult:
    """Measures the guard, and writes report.json, report.md and report.html into the out folder."""
    with lease(job.config.out, wait=job.config.wait, progress=progress):
        return _measured(job, progress)


def _measured(job: GuardAuditJob, progress: Progress | None) -> GuardAuditResult:
    config, guard = job.config, job.guard
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
            max_fpr=guard.state.record.max_fpr,
            alarms=alarms_of(verdicts, calibrated=guard.state.record.max_fpr is not None),
            detections=detections_of(verdicts),
            choice=guard.state.record.choice,
            reliabilities=reliabilities_of(verdicts, guard),
            suspects=suspects_of(verdicts, guard, job.classes, job.known),
        ),
        notes=(*_advice(tally.unions(), guard), STATEMENT, UNION),
    )
    return GuardAuditResult(report=report, page=write_report(report, config.out))


def _verdicts(job: GuardAuditJob, measuring: GuardMeasuring) -> TrafficVerdicts:
    """Runs the guard on clean images, otherwise benign ones, and every attack on the base, known to it or not."""
    uncascaded = job.guard.replace(cascade=False)
    images = {"clean": measuring.x}
    images |= {name: measuring.transferred(attack) for name, attack in job.known.items()}

    def judged(x: Images, guard: Guard = job.guard) -> Verdict:
        return guard.predict_full(x, batch_size=job.config.batch_size)

    return TrafficVerdicts(
        y=measuring.y,
        images=images,
        known={name: judged(x) for name, x in images.items()},
        unfitted={name: judged(measuring.transferred(attack)) for name, attack in job.unfitted.items()},
        # a seed of its own: the draws of the calibration are not repeated
        benign={k: judged(change_benignly(measuring.x, k, seed=mix(job.config.seed, _DRAWS))) for k in BENIGN_KINDS},
        strange={name: judged(measuring.transferred(attack)) for name, attack in job.strange.items()},
        uncascaded={name: judged(x, uncascaded) for name, x in images.items()},
    )


def _advice(unions: Sequence[AccuracyResult], guard: Guard) -> tuple[str, ...]:
    """Says where an adapter alone keeps more images through everything than the guard itself does, on the reported images."""
    kept = {row.model: row for row in unions}
    own = kept.get(f"guard:{guard.settings.rule}")
    alone = [row for name, row in kept.items() if not name.startswith("guard:") and name not in (BASE, own)]
    best = max(alone, key=lambda row: row.correct, default=None)
    if own is None or best is None or best.correct <= own.correct:
        return ()
    mend = f"--answered-by {best.model}" if best.model in guard.state.adapters else "--adapter, as one of the guard's"
    return (
        f"On the reported images {best.model} alone keeps {best.correct} of {best.total} through everything, the guard "
        f"{own.correct} of {own.total}; a guard that it answers for is built with {mend}.",
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
        "answered_by": settings.policy.answered_by,
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
