"""Candidates and their figures: clean, under transfer, under adaptive attacks; the leak test and the masking checks."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from loradar.adapters import Adapter, merge_weights
from loradar.attacks import PGD, UniformNoise
from loradar.core.types import Attack, Images, Labels, LabelUse, Threat
from loradar.evaluation.leak import LabelLeakResult, leak_test
from loradar.evaluation.masking_checks import Check, check_masking
from loradar.evaluation.measure import NO_ATTACK, AccuracyResult, predict
from loradar.evaluation.names import kind
from loradar.evaluation.pictures import Picture
from loradar.evaluation.workbench import Workbench


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A model that is measured: the base, or the merged weights of the base and an adapter."""

    name: str
    model: nn.Module
    trained_against: str = ""

    @classmethod
    def with_adapter(cls, base: nn.Module, adapter: Adapter, *, name: str) -> "Candidate":
        return cls(name=name, model=merge_weights(base, adapter), trained_against=adapter.card.trained_against)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportedImages:
    """The images that figures are reported on, and the seed that the rows carry."""

    x: Images
    y: Labels
    seed: int

    def first(self, count: int | None) -> "ReportedImages":
        return self if count is None else ReportedImages(x=self.x[:count], y=self.y[:count], seed=self.seed)


def row(
    bench: Workbench, one: Candidate, x: Images, reported: ReportedImages, attack: Attack | None, threat: Threat
) -> AccuracyResult:
    """The candidate's right answers on `x`, which is `reported.x`, attacked or not."""
    return AccuracyResult.count(
        model=one.name,
        attack=NO_ATTACK if attack is None else attack.spec,
        threat=threat,
        correct=bench.right(bench.optimized(one.model, attack), x, reported.y),
        total=len(reported.y),
        seed=reported.seed,
        trained_against=one.trained_against,
    )


def clean_row(bench: Workbench, one: Candidate, reported: ReportedImages) -> AccuracyResult:
    return row(bench, one, reported.x, reported, None, "clean")


def transferred(bench: Workbench, attack: Attack, reported: ReportedImages) -> Images:
    """The attack on the unmodified base: the same images for every candidate."""
    name = f"craft {kind(attack.spec)} on the base, {len(reported.y)} reported images"
    return bench.attacked(attack, bench.base.model, reported.x, reported.y, name=name)


def transfer_row(bench: Workbench, one: Candidate, attack: Attack, reported: ReportedImages) -> AccuracyResult:
    return row(bench, one, transferred(bench, attack, reported), reported, attack, "transfer")


def adaptive(bench: Workbench, one: Candidate, attack: Attack, reported: ReportedImages) -> Images:
    """The attack on the candidate itself."""
    name = f"craft {kind(attack.spec)} on {one.name}, {len(reported.y)} reported images"
    return bench.attacked(attack, one.model, reported.x, reported.y, name=name)


@dataclass(frozen=True, kw_only=True, eq=False)
class OnBench:
    """A candidate as a `Target`: attacked through the bench, which keeps the images."""

    bench: Workbench
    one: Candidate
    _models: dict[frozenset[str], nn.Module] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.one.name

    @property
    def trained_against(self) -> str:
        return self.one.trained_against

    @property
    def batch_size(self) -> int:
        return self.bench.batch_size

    def model_for(self, attack: Attack | None) -> nn.Module:
        """The copy for `attack` and for counting, made once for all attacks that read the same layers."""
        layers = attack.traits.layers if attack else frozenset()
        if layers not in self._models:
            self._models[layers] = self.bench.optimized(self.one.model, attack)
        return self._models[layers]

    def attacked(self, attack: Attack, x: Images, y: Labels, *, name: str) -> Images:
        return self.bench.attacked(attack, self.one.model, x, y, name=name)


def leak(bench: Workbench, one: Candidate, attack: Attack, reported: ReportedImages) -> LabelLeakResult:
    """Whether the candidate reads the label out of this attack's perturbation (see `leak_test`)."""
    base = bench.optimized(bench.base.model, attack)

    def labelled(label: LabelUse) -> Attack:
        return bench.cache.through(attack.relabelled(label), base, model_key=bench.key(bench.base.model))

    return leak_test(
        bench.optimized(one.model, attack),
        base,
        reported.x,
        reported.y,
        true=labelled("true"),
        predicted=labelled("predicted"),
        given=labelled("given"),
        seed=reported.seed,
        name=one.name,
        batch_size=bench.batch_size,
        progress=bench.progress_named(f"leak test of {one.name}"),
    )


def masking(bench: Workbench, one: Candidate, reported: ReportedImages) -> tuple[Check, ...]:
    """Signs of masked gradients, by PGD in an L-inf ball of 8/255 (and of 1 for the unbounded one).

    Whether there is a gradient at all, `worst_case` says of every image.
    """
    fast, key = bench.optimized(one.model), bench.key(one.model)

    def kept(attack: Attack) -> Attack:
        return bench.cache.through(attack, fast, model_key=key)

    return check_masking(
        fast,
        reported.x,
        reported.y,
        noise=kept(UniformNoise()),
        short=kept(PGD(steps=5)),
        long=kept(PGD(steps=40)),
        unbounded=kept(PGD(eps=1.0, steps=40)),
        name=one.name,
        batch_size=bench.batch_size,
        progress=bench.progress_named(f"masking checks of {one.name}"),
    )


def pictures(
    bench: Workbench, one: Candidate, attack: Attack, threat: Threat, reported: ReportedImages, classes: Sequence[str]
) -> tuple[Picture, ...]:
    """Draws up to two attacked images: one that the candidate still answers rightly, the base wrongly if there is such a
    one; and one that fools the candidate."""
    x_adv = transferred(bench, attack, reported) if threat == "transfer" else adaptive(bench, one, attack, reported)
    base, own = bench.optimized(bench.base.model, attack), bench.optimized(one.model, attack)
    base_answers = predict(base, x_adv, batch_size=bench.batch_size)
    before = predict(own, reported.x, batch_size=bench.batch_size)
    after = predict(own, x_adv, batch_size=bench.batch_size)
    held, lost = (before == reported.y) & (after == reported.y), (before == reported.y) & (after != reported.y)
    chosen = [_first(held & (base_answers != reported.y), held), _first(lost)]

    def word(answer: Tensor) -> str:
        return classes[int(answer)] if answer >= 0 else "none"

    return tuple(
        Picture.of(
            reported.x[i],
            x_adv[i],
            model=one.name,
            attack=attack.spec,
            threat=threat,
            label=word(reported.y[i]),
            before=word(before[i]),
            after=word(after[i]),
            base_answer=word(base_answers[i]),
        )
        for i in chosen
        if i is not None
    )


def _first(*groups: Tensor) -> int | None:
    """The first image of the first group, bool (n,), that has one."""
    return next((int(group.nonzero()[0]) for group in groups if group.any()), None)
