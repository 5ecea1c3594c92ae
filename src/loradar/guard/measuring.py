"""Measures a guard and everything that it is made of: who is right on which image, under which attack."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loradar.adapters import Adapter, fingerprint
from loradar.core.types import Attack, Images, Labels, Threat
from loradar.evaluation import NO_ATTACK, AccuracyResult, correct, run_attack
from loradar.evaluation.names import kind
from loradar.evaluation.workbench import Workbench
from loradar.guard.attacks import DetectorEvasion, ThroughSurrogate, can_evade
from loradar.guard.config import GuardAuditConfig
from loradar.guard.fusion import Rule
from loradar.guard.guard import Guard
from loradar.guard.masking import certified, pair_answers, two_round
from loradar.guard.parts import merged_voters
from loradar.guard.surrogate import Surrogate
from loradar.guard.tally import Tally, Trial


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardCandidate:
    """A guard or one model alone.

    `model` gives the answers that count; attacks are given `target`: the model itself, or a guard's surrogate, which `key`
    names in the cache.
    """

    name: str
    model: nn.Module
    target: nn.Module
    key: str = ""
    trained_against: str = ""

    @property
    def is_guard(self) -> bool:
        return isinstance(self.model, Guard)

    def right(self, x: Images, y: Labels, batch_size: int) -> Tensor:
        """(n,) bool: which images it answers rightly; a guard that abstains does not."""
        if isinstance(self.model, Guard):
            return self.model.predict(x, batch_size=batch_size) == y
        return correct(self.model, x, y, batch_size=batch_size)


def list_candidates(
    bench: Workbench, guard: Guard, extra: Mapping[str, Adapter], rules: Sequence[Rule]
) -> list[GuardCandidate]:
    """Lists the guard as it is, under every rule, without its cascade, and responding; then each of its models, and `extra`."""
    settings = guard.settings
    voting = dataclasses.replace(settings.policy, answered_by="")
    guards = {f"guard:{settings.rule}": guard}
    guards |= {f"guard:{rule}": guard.replace(fusion=rule, policy=voting) for rule in rules if rule != settings.rule}
    if settings.gated:
        guards[f"guard:{settings.rule}, no cascade"] = guard.replace(cascade=False)
    if settings.policy.responses:
        guards[f"guard:{settings.rule}, responding"] = guard.replace(level="raised")
    candidates = []
    for name, variant in guards.items():
        surrogate = Surrogate(variant).eval()
        candidates.append(GuardCandidate(name=name, model=variant, target=surrogate, key=fingerprint(surrogate)))
    adapters = {**guard.state.adapters, **extra}
    for name, model in merged_voters(bench.base, adapters).items():
        against = adapters[name].card.trained_against if name in adapters else ""
        candidates.append(
            GuardCandidate(name=name, model=bench.optimized(model), target=model, trained_against=against)
        )
    return candidates


@dataclass(frozen=True, kw_only=True, eq=False)
class GuardMeasuring:
    """Reported images, the attacks on them, and how they are run."""

    bench: Workbench
    guard: Guard
    voters: Mapping[str, nn.Module]
    config: GuardAuditConfig
    attacks: Mapping[str, Attack]
    x: Images
    y: Labels

    def tally(self, candidates: Sequence[GuardCandidate]) -> Tally:
        """Runs every candidate on clean images and under every attack of every threat model."""
        batch_size, trials = self.bench.batch_size, dict[Trial, Tensor]()
        crafted: dict[tuple[str, str], Images] = {}
        for one in candidates:
            clean = Trial(candidate=one.name, attack=NO_ATTACK, threat="clean")
            trials[clean] = one.right(self.x, self.y, batch_size)
            for attack in self.attacks.values() if "transfer" in self.config.threat else ():
                trial = Trial(candidate=one.name, attack=attack.spec, threat="transfer")
                trials[trial] = one.right(self.transferred(attack), self.y, batch_size)
        for one in candidates if "adaptive" in self.config.threat else ():
            for attack in self.adaptive(one):
                x_adv, y = self.crafted(one, attack)
                trial = Trial(candidate=one.name, attack=attack.spec, threat="adaptive")
                trials[trial] = one.right(x_adv, y, batch_size)
                if one.is_guard:
                    crafted[one.key, attack.spec] = x_adv
        y = self.y[: self.config.max_adaptive_images]
        return Tally(
            trials=trials,
            pooled={
                one.name: torch.stack([one.right(x, y, batch_size) for x in crafted.values()]).all(0)
                for one in candidates
                if one.is_guard and crafted
            },
            against={one.name: one.trained_against for one in candidates},
            seed=self.config.seed,
        )

    def transferred(self, attack: Attack) -> Images:
        """Runs `attack` on the base at every image."""
        name = f"craft {kind(attack.spec)} on the base, {len(self.y)} images"
        return self.bench.attacked(attack, self.bench.base.model, self.x, self.y, name=name)

    def adaptive(self, one: GuardCandidate) -> list[Attack]:
        """Lists the attacks on a candidate itself: on a guard also those that try to be named clean."""
        attacks = list(self.attacks.values())
        if not one.is_guard:
            return attacks
        steps = self.config.evade_steps
        return [*attacks, *(DetectorEvasion(attack=attack, steps=steps) for attack in attacks if can_evade(attack))]

    def crafted(self, one: GuardCandidate, attack: Attack) -> tuple[Images, Labels]:
        """Runs the attack on the candidate itself: on a guard through its surrogate, unless the attack needs no gradient."""
        bench = self.bench
        x, y = self.x[: self.config.max_adaptive_images], self.y[: self.config.max_adaptive_images]
        name = f"craft {kind(attack.spec)} on {one.name}, {len(y)} images"
        if not one.is_guard:
            return bench.attacked(attack, one.target, x, y, name=name), y
        target, made, key = one.target, self._through(one, attack), one.key
        if not attack.traits.needs_gradients:
            target, made, key = one.model, attack, fingerprint(one.model)
        kept = bench.cache.through(made, target, model_key=key)
        return run_attack(kept, target, x, y, batch_size=bench.batch_size, progress=bench.progress_named(name)), y

    def _through(self, one: GuardCandidate, attack: Attack) -> Attack:
        if isinstance(attack, DetectorEvasion):
            # it goes on from images that are kept already
            first = self.bench.cache.through(self._through(one, attack.attack), one.target, model_key=one.key)
            return dataclasses.replace(attack, attack=first)
        voters = tuple(self.bench.optimized(model, attack) for model in self.voters.values())
        return ThroughSurrogate(attack=attack, voters=voters)

    def certificate(self) -> list[AccuracyResult]:
        """Masking on clean images: right answers, and those that no rectangle of the guard's size can change."""
        masker, mask_set = self.guard.settings.masker, self.guard.settings.mask_set
        x, y = (tensor[: self.config.max_certified_images] for tensor in (self.x, self.y))
        masks = mask_set.masks((x.shape[2], x.shape[3])).to(self.bench.device)
        model = self.bench.optimized(self.voters[masker])
        task = self.bench.progress.task(f"certify masking by {masker}", len(y))
        right, sure = [], []
        with torch.inference_mode():
            for images, labels in zip(torch.split(x, 16), torch.split(y, 16), strict=True):
                table = pair_answers(model, images.to(self.bench.device), masks)
                right.append(two_round(table).cpu() == labels)
                sure.append(certified(table).cpu() & right[-1])
                task.advance(len(labels))
        rows: list[tuple[str, Threat, list[Tensor]]] = [
            (NO_ATTACK, "clean", right),
            (f"certified({mask_set!r})", "adaptive", sure),
        ]
        return [
            AccuracyResult.count(
                model=f"mask:{masker}",
                attack=attack,
                threat=threat,
                correct=int(torch.cat(counts).sum()),
                total=len(y),
                seed=self.config.seed,
            )
            for attack, threat, counts in rows
        ]
