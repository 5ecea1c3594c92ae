"""What can be served: a guard, a few-shot task, an adapter on its base, or a base. Opened and tried before it is used."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from loradar.adapters import fingerprint, read_adapter
from loradar.core.errors import BadConfigError, BadFileError, BadImagesError, LoradarError, WrongBaseError
from loradar.core.files import read_regular, sha256
from loradar.core.names import ADAPTER_CONFIG, ADAPTER_WEIGHTS, GUARD_RECORD, GUARD_TENSORS
from loradar.core.randomness import generator
from loradar.core.remote import find_file, local_folder
from loradar.core.types import Images
from loradar.fewshot.classifier import FewShotClassifier
from loradar.fewshot.fit import FEW_SHOT, base_of_task
from loradar.guard.files import read_parts
from loradar.guard.guard import Guard, Verdict
from loradar.guard.policy import Level
from loradar.guard.surrogate import Surrogate
from loradar.guard.traffic import findings_of
from loradar.jobs.predict import PredictJob, open_classifier, probabilities
from loradar.models import Base, Precision, open_base

Kind: TypeAlias = Literal["guard", "task", "adapter", "base"]
Targets: TypeAlias = Callable[[Level], Mapping[str, nn.Module]]
"""At a level of alarm, modules from images to logits that gradients pass through, by name."""
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """What a model makes of one image: `label` (-1 where it abstains) and the probability of every class, (classes,).

    Of a guard also the suspected attack with its probability, the measures taken, each voter's class and confidence
    (None where it was not asked), and the level of alarm that all of this was found under.
    """

    label: int
    probabilities: Tensor
    suspected: tuple[str, float] | None = None
    measures: tuple[str, ...] = ()
    voters: Mapping[str, tuple[str, float] | None] | None = None
    level: Level | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer(Judgement):
    """A judgement, and whose it is."""

    model: str
    version: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A version of a model, ready to answer. `fingerprint` is of all that it computes with, `size` the bytes of its weights.

    `attacks` are the specs of the attacks that a guard knows, by name; `targets` is what an attack can be made through.
    """

    name: str
    version: str
    kind: Kind
    fingerprint: str
    classes: tuple[str, ...]
    input_size: tuple[int, int, int]
    size: int
    judge: Callable[[Images, Level], Sequence[Judgement]]
    targets: Targets = lambda _: {}
    attacks: Mapping[str, str] = field(default_factory=dict)

    def answer(self, x: Images, level: Level = "calm") -> list[Answer]:
        """Answers images (batch, *input_size) in [0, 1], in order; other models than guards know no level.

        Raises BadImagesError for images outside their contract, and where the model's output is not finite.
        """
        found = self.judge(x, level)
        if not bool(torch.stack([one.probabilities for one in found]).isfinite().all()):
            raise BadImagesError("the model's output is not finite")
        return [
            Answer(**vars(one), model=self.name, version=self.version, fingerprint=self.fingerprint) for one in found
        ]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How places are opened: the base of adapters (and of what has lost its own), a public key, device and precision."""

    base: str | None = None
    key: Path | None = None
    device: str = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Opened:
    classes: Sequence[str]
    input_size: tuple[int, int, int]
    modules: Sequence[nn.Module]
    judge: Callable[[Images, Level], Sequence[Judgement]]
    targets: Targets
    attacks: Mapping[str, str] = field(default_factory=dict)
    levels: tuple[Level, ...] = ("calm",)


def open_served(place: str, opening: Opening, *, name: str, version: str) -> Served:
    """Opens what lies at `place` and lets it answer one image, so that what cannot answer is never used.

    Raises LoradarError: BadFileError for a folder that is damaged, not signed by the owner of the key, or changed meanwhile.
    """
    kind = kind_of(place)
    if kind != "base":
        place = str(local_folder(place))
    before = _digest(place, kind)
    opened = _OPEN[kind](place, opening)
    if _digest(place, kind) != before:
        raise BadFileError(f"{place} was changed while it was read; load it again")
    served = Served(
        name=name,
        version=version,
        kind=kind,
        fingerprint=before or fingerprint(opened.modules[0]),
        classes=tuple(opened.classes),
        input_size=opened.input_size,
        size=_size(opened.modules),
        judge=opened.judge,
        targets=opened.targets,
        attacks=opened.attacks,
    )
    x = torch.rand(1, *served.input_size, generator=generator(0))
    for level in opened.levels:
        served.answer(x, level)
    return served


def kind_of(place: str) -> Kind:
    """Tells what lies at `place`, by the files of its folder; what is no folder of ours is the name of a base."""
    if find_file(place, GUARD_RECORD):
        return "guard"
    if not find_file(place, ADAPTER_CONFIG):
        return "base"
    return "task" if FEW_SHOT in read_adapter(place)[0].card.data else "adapter"


def _digest(place: str, kind: Kind) -> str:
    """The digest of all that a folder means, which signatures are over too; "" for a base."""
    if kind == "base":
        return ""
    folder = Path(place)
    if kind == "guard":
        return read_parts(folder).digest or sha256(read_regular(folder / GUARD_TENSORS))
    return read_adapter(folder)[1] or sha256(read_regular(folder / ADAPTER_WEIGHTS))


def _open_guard(place: str, opening: Opening) -> _Opened:
    def opened(base: str | None) -> Guard:
        return Guard.open(place, base=base, device=opening.device, precision=opening.precision, key=opening.key)

    guard = _with_base(opened, opening)
    guards: dict[Level, Guard] = {"calm": guard.replace(level="calm"), "raised": guard.replace(level="raised")}
    targets = {level: {"base": guard.state.base.model, "guard": Surrogate(one)} for level, one in guards.items()}

    def judge(x: Images, level: Level) -> list[Judgement]:
        return _guarded(guards[level], guards[level].predict_full(x))

    classes = guard.classes_ or tuple(map(str, range(guard.state.base.num_classes)))
    return _Opened(
        classes=classes,
        input_size=guard.input_size,
        modules=[guard, guard.state.base.model],
        judge=judge,
        targets=targets.__getitem__,
        attacks=guard.state.record.attacks,
        levels=("calm", "raised"),
    )


def _guarded(guard: Guard, verdict: Verdict) -> list[Judgement]:
    shares, labels = verdict.logits.softmax(1), verdict.answers.tolist()
    findings = findings_of(guard, verdict, [""] * len(labels))
    return [
        Judgement(
            label=label,
            probabilities=probabilities,
            suspected=(finding.suspected, finding.probability),
            measures=finding.defenses,
            voters=finding.voters,
            level=finding.level,
        )
        for label, probabilities, finding in zip(labels, shares, findings, strict=True)
    ]


def _open_task(place: str, opening: Opening) -> _Opened:
    def opened(base: str | None) -> tuple[FewShotClassifier, Base]:
        own = open_base(base or base_of_task(place, read_adapter(place)[0]), opening.device)
        return FewShotClassifier.load(place, base=own, key=opening.key), own

    task, base = _with_base(opened, opening)

    def judge(x: Images, level: Level) -> list[Judgement]:  # noqa: ARG001
        return _plain(task.predict_proba(x))

    return _Opened(
        classes=task.adapter_.card.classes,
        input_size=base.input_size,
        modules=[base.model, task.classifier_],
        judge=judge,
        targets=lambda level: {"task": task.classifier_},  # noqa: ARG005
    )


def _open_adapter(place: str, opening: Opening) -> _Opened:
    def opened(base: str | None) -> PredictJob:
        return open_classifier(base, Path(place), device=opening.device, key=opening.key)

    return _of_job(_with_base(opened, opening), "adapter")


def _open_base(place: str, opening: Opening) -> _Opened:
    if opening.key is not None:
        raise BadConfigError(f"{place} is a base, which nobody signs; serve signed folders, or leave --key out")
    return _of_job(open_classifier(place, None, device=opening.device), "base")


_OPEN: dict[Kind, Callable[[str, Opening], _Opened]] = {
    "guard": _open_guard,
    "task": _open_task,
    "adapter": _open_adapter,
    "base": _open_base,
}


def _of_job(job: PredictJob, kind: Kind) -> _Opened:
    def judge(x: Images, level: Level) -> list[Judgement]:  # noqa: ARG001
        return _plain(probabilities(job, x))

    return _Opened(
        classes=job.classes,
        input_size=(3, *job.size),
        modules=[job.model],
        judge=judge,
        targets=lambda level: {kind: job.model},  # noqa: ARG005
    )


def _plain(shares: Tensor) -> list[Judgement]:
    labels = shares.argmax(1).tolist()
    return [Judgement(label=label, probabilities=row) for label, row in zip(labels, shares, strict=True)]


def _with_base(opened: Callable[[str | None], _T], opening: Opening) -> _T:
    """Opens with the base given; where that is not the folder's, with the one it names. Either is checked by its hash."""
    if opening.base is None:
        return opened(None)
    try:
        return opened(opening.base)
    except WrongBaseError as error:
        try:
            return opened(None)
        except LoradarError:
            raise error from None


def _size(modules: Sequence[nn.Module]) -> int:
    """Bytes of their weights, each memory once."""
    storages = (t.untyped_storage() for module in modules for t in (*module.parameters(), *module.buffers()))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
