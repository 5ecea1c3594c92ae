"""Attacks a guard as a whole, and beside it everything it is made of: one report, the union accuracy first."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from loradar.adapters import Adapter, fingerprint, load
from loradar.attacks import named_attacks, parse_attack
from loradar.core.errors import BadConfigError, did_you_mean
from loradar.core.files import make_folder
from loradar.core.types import Attack, Images, Labels, Progress, Threat
from loradar.data import CORRUPTIONS, load_source, split
from loradar.evaluation import NO_ATTACK, AccuracyResult, check_classes, check_unseen, everything, run_attack, versions
from loradar.evaluation.corruptions import Corrupted
from loradar.evaluation.names import kind
from loradar.evaluation.workbench import Workbench, open_bench
from loradar.guard.attacks import DetectorEvasion, ThroughSurrogate, can_evade
from loradar.guard.calibration_split import refuse_calibrated
from loradar.guard.config import GuardAuditConfig
from loradar.guard.figures import Looked, cost_of, identification_of, judged, reliabilities_of, suspects_of
from loradar.guard.fusion import RULES, Rule
from loradar.guard.guard import Guard
from loradar.guard.masking import certified, pair_answers, two_round
from loradar.guard.pool import OpenGuard, folded, named_adapters, open_guard, right_on
from loradar.guard.surrogate import STATEMENT, Surrogate
from loradar.guard.tally import UNION, Meeting, Tally
from loradar.report.files import write_report
from loradar.report.guards import GuardSection
from loradar.report.schema import BASE, Report


def audit_guard(config: GuardAuditConfig, *, progress: Progress | None = None) -> Path:
    """Measures, writes report.json, report.md and report.html into `config.out`; returns the page's path.

    Raises LoradarError for anything that the caller can mend, before the long work starts.
    """
    rules = _rules(config.fusion)
    opened = open_guard(config.guard, base=config.base, device=config.device, precision=config.precision)
    fitted = named_attacks([f"{name}={text}" for name, text in opened.record.attacks.items()])
    attacks = named_attacks(config.attacks) if config.attacks else fitted
    unfitted = {spec: _unfitted(spec) for spec in config.unfitted}
    members = {name: load(opened.folder / "adapters" / name) for name in opened.record.adapters}
    extra = named_adapters(config.candidate) if config.candidate else {}
    if both := set(extra) & set(members):
        raise BadConfigError(f"{min(both)!r} is an adapter of the guard already; name other candidates")
    source = load_source(config.data, size=opened.base.input_size[1:])
    check_classes(opened.base, source)
    splits = split(source, reported=config.max_test_images, seed=config.seed)
    refuse_calibrated(splits.reported, opened.record.digests)
    for adapter in (*members.values(), *extra.values()):
        check_unseen(adapter.card, source, splits.record)
    bench = open_bench(opened.base, config, progress)
    make_folder(config.out)
    x, y = everything(splits.reported)
    audit = _Audit(bench=bench, opened=opened, config=config, attacks=attacks, x=x, y=y)
    tally = audit.tally(_candidates(bench, opened, members, extra, rules))
    known = {name: attacks.get(name, attack) for name, attack in fitted.items()}
    looked = audit.look(known, unfitted)
    rows = (*tally.unions(), *tally.mixtures(), *tally.rows(), *audit.certificate())
    report = Report(
        title="Guard report",
        rows=rows,
        base=bench.describe(),
        data={name: value for name, value in splits.record.items() if name != "duplicates"}
        | {"calibration": opened.record.data},
        versions=versions(),
        settings=bench.settings(config) | {"guard": _settings(opened)},
        # the saved guard is the first candidate
        baselines=tuple({row.model: None for row in rows if row.model not in (next(iter(tally.against)), BASE)}),
        guard=GuardSection(
            identification=identification_of(looked, opened.guard.settings.labels),
            cost=cost_of(looked, opened.guard, tally.costs),
            reliabilities=reliabilities_of(looked, opened.guard),
            suspects=suspects_of(looked, opened.guard, opened.base.classes or source.classes, known),
        ),
        notes=(STATEMENT, UNION),
    )
    return write_report(report, config.out)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    """What is measured; `guard` is None for one model. `target` is what attacks are given in its place: the model, or the
    guard's surrogate, which `key` names in the cache."""

    name: str
    right: Callable[[Images, Labels], Tensor]
    target: nn.Module
    key: str = ""
    guard: Guard | None = None
    trained_against: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Audit:
    bench: Workbench
    opened: OpenGuard
    config: GuardAuditConfig
    attacks: Mapping[str, Attack]
    x: Images
    y: Labels

    def tally(self, candidates: Sequence[_Candidate]) -> Tally:
        meetings: dict[Meeting, Tensor] = {}
        crafted: dict[tuple[str, str], Images] = {}
        for one in candidates:
            meetings[Meeting(candidate=one.name, attack=NO_ATTACK, threat="clean")] = one.right(self.x, self.y)
            for attack in self.attacks.values() if "transfer" in self.config.threat else ():
                meeting = Meeting(candidate=one.name, attack=attack.spec, threat="transfer")
                meetings[meeting] = one.right(self.transferred(attack, self.x, self.y), self.y)
        for one in candidates if "adaptive" in self.config.threat else ():
            for attack in self._adaptive(one):
                x_adv, y = self._crafted(one, attack)
                meetings[Meeting(candidate=one.name, attack=attack.spec, threat="adaptive")] = one.right(x_adv, y)
                if one.guard is not None:
                    crafted[one.key, attack.spec] = x_adv
        guards = [one for one in candidates if one.guard is not None]
        few = self.y[: self.config.max_adaptive_images]
        return Tally(
            meetings=meetings,
            pooled={
                one.name: torch.stack([one.right(x, few) for x in crafted.values()]).all(0) for one in guards if crafted
            },
            against={one.name: one.trained_against for one in candidates},
            costs={one.name: _passes(one) for one in candidates},
            seed=self.config.seed,
        )

    def transferred(self, attack: Attack, x: Images, y: Labels) -> Images:
        name = f"craft {kind(attack.spec)} on the base, {len(y)} reported images"
        return self.bench.attacked(attack, self.bench.base.model, x, y, name=name)

    def _adaptive(self, one: _Candidate) -> list[Attack]:
        attacks = list(self.attacks.values())
        if one.guard is None:
            return attacks
        steps = self.config.evade_steps
        return [*attacks, *(DetectorEvasion(attack=attack, steps=steps) for attack in attacks if can_evade(attack))]

    def _crafted(self, one: _Candidate, attack: Attack) -> tuple[Images, Labels]:
        """The attack on the candidate itself: on a guard through its surrogate, unless the attack needs no gradient."""
        bench = self.bench
        x, y = self.x[: self.config.max_adaptive_images], self.y[: self.config.max_adaptive_images]
        name = f"craft {kind(attack.spec)} on {one.name}, {len(y)} reported images"
        if one.guard is None:
            return bench.attacked(attack, one.target, x, y, name=name), y
        target, made, key = one.target, self._through(one, attack), one.key
        if not attack.traits.needs_gradients:
            target, made, key = one.guard, attack, fingerprint(one.guard)
        kept = bench.cache.through(made, target, model_key=key)
        return run_attack(kept, target, x, y, batch_size=bench.batch_size, progress=bench.progress_named(name)), y

    def _through(self, one: _Candidate, attack: Attack) -> Attack:
        if isinstance(attack, DetectorEvasion):
            # it goes on from images that are kept already
            first = self.bench.cache.through(self._through(one, attack.attack), one.target, model_key=one.key)
            return dataclasses.replace(attack, attack=first)
        return ThroughSurrogate(
            attack=attack, voters=tuple(self.bench.optimized(m, attack) for m in self.opened.voters.values())
        )

    def look(self, known: Mapping[str, Attack], unfitted: Mapping[str, Attack]) -> Looked:
        """The guard on clean images, on transferred attacks, and on threats that it does not know."""
        pictures = {"clean": self.x}
        pictures |= {name: self.transferred(attack, self.x, self.y) for name, attack in known.items()}
        strange = {name: self.transferred(attack, self.x, self.y) for name, attack in unfitted.items()}
        everything_runs = self.opened.guard.replace(cascade=False)
        batch = self.config.batch_size
        return Looked(
            y=self.y,
            images=pictures,
            known={name: judged(self.opened.guard, x, batch_size=batch) for name, x in pictures.items()},
            strange={name: judged(self.opened.guard, x, batch_size=batch) for name, x in strange.items()},
            everything={name: judged(everything_runs, x, batch_size=batch) for name, x in pictures.items()},
        )

    def certificate(self) -> list[AccuracyResult]:
        """Masking on clean images: right answers, and those that no rectangle of the guard's size can change."""
        settings, few = self.opened.guard.settings, self.config.max_certified_images
        x, y = self.x[:few], self.y[:few]
        mask_set = self.opened.guard.mask_set
        masks = mask_set.masks((x.shape[2], x.shape[3])).to(self.bench.device)
        model = self.bench.optimized(self.opened.voters[settings.masker])
        task = self.bench.progress.task(f"certify masking by {settings.masker}", len(y))
        right, sure = [], []
        with torch.inference_mode():
            for images, labels in zip(torch.split(x, 16), torch.split(y, 16), strict=True):
                table = pair_answers(model, images.to(self.bench.device), masks)
                right.append(two_round(table).cpu() == labels)
                sure.append(certified(table).cpu() & right[-1])
                task.advance(len(labels))
        told = f"certified({mask_set!r})"
        return [
            AccuracyResult.count(
                model=f"mask:{settings.masker}",
                attack=attack,
                threat=cast(Threat, threat),
                correct=int(torch.cat(counts).sum()),
                total=len(y),
                seed=self.config.seed,
            )
            for attack, threat, counts in ((NO_ATTACK, "clean", right), (told, "adaptive", sure))
        ]


def _candidates(
    bench: Workbench,
    opened: OpenGuard,
    members: Mapping[str, Adapter],
    extra: Mapping[str, Adapter],
    rules: Sequence[Rule],
) -> list[_Candidate]:
    """The guard under every rule first, then without its cascade and with its responses; then each model alone."""
    guard, saved = opened.guard, opened.guard.settings
    guards = {f"guard:{rule}": guard.replace(fusion=rule) for rule in dict.fromkeys((saved.fusion, *rules))}
    if saved.cascade:
        guards[f"guard:{saved.fusion}, no cascade"] = guard.replace(cascade=False)
    if saved.policy.responses:
        guards[f"guard:{saved.fusion}, responding"] = guard.replace(level="raised")
    alone = {**opened.voters, **{n: m for n, m in folded(opened.base, extra).items() if n in extra}}
    cards = {name: adapter.card for name, adapter in {**members, **extra}.items()}
    return [
        *(_of_guard(name, each, bench.batch_size) for name, each in guards.items()),
        *(
            _of_model(bench, name, model, cards[name].trained_against if name in cards else "")
            for name, model in alone.items()
        ),
    ]


def _of_guard(name: str, guard: Guard, batch_size: int) -> _Candidate:
    def right(x: Images, y: Labels) -> Tensor:
        return judged(guard, x, batch_size=batch_size).answers == y

    surrogate = Surrogate(guard).eval()
    return _Candidate(name=name, right=right, target=surrogate, key=fingerprint(surrogate), guard=guard)


def _of_model(bench: Workbench, name: str, model: nn.Module, against: str) -> _Candidate:
    counted = bench.optimized(model)

    def right(x: Images, y: Labels) -> Tensor:
        return right_on(counted, x, y, batch_size=bench.batch_size)

    return _Candidate(name=name, right=right, target=model, trained_against=against)


def _passes(one: _Candidate) -> float:
    """Forward passes per image where everything runs, before any response."""
    return 1.0 if one.guard is None else float(one.guard.costs.sum())


def _rules(names: Sequence[str]) -> list[Rule]:
    for name in names:
        if name not in RULES:
            raise BadConfigError(f"there is no fusion {name!r}; {did_you_mean(name, RULES)}")
    return [rule for rule in RULES if rule in names]


def _unfitted(spec: str) -> Attack:
    return Corrupted(corruption=spec) if spec in CORRUPTIONS else parse_attack(spec)


def _settings(opened: OpenGuard) -> dict[str, object]:
    settings = opened.guard.settings
    return {
        "fusion": settings.fusion,
        "base_votes": settings.base_votes,
        "abstain": settings.abstain,
        "cascade": settings.cascade,
        "gate": round(settings.gate, 4),
        "prior": {label: round(times, 4) for label, times in settings.prior.items()},
        "adapters": list(opened.record.adapters),
        "specialists": dict(settings.specialists),
        "temperatures": {name: round(each.temperature, 3) for name, each in settings.calibrations.items()},
        "weights": {name: round(each.weight, 3) for name, each in settings.calibrations.items()},
        "responses": {threat: list(defenses) for threat, defenses in settings.policy.responses.items()},
        "masker": settings.masker,
        "forwards": {name: round(cost, 4) for name, cost in opened.record.costs.items()},
    }
