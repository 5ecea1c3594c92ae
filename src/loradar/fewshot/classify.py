"""A fitted task names what is on images: one by one, or together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from loradar.adapters import Card
from loradar.core.errors import BadConfigError, BadDataError, BadFileError
from loradar.core.types import Images, NullProgress, Progress
from loradar.data import load_source, read_images
from loradar.fewshot.classifier import FewShotClassifier
from loradar.fewshot.fit import LABELS, base_of_task, open_task, support_of
from loradar.models import open_base


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The class of an image, and its probability (a softmax over the logits)."""

    image: str
    answer: str
    confidence: float


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifyJob:
    """A fitted task, and images (n, 3, H, W) in [0, 1] with a name for each."""

    task: FewShotClassifier
    x: Images
    names: tuple[str, ...]


def resolve(
    folder: Path,
    images: Sequence[Path],
    *,
    base: str | None = None,
    transductive: bool = False,
    support: str | None = None,
    key: Path | None = None,
) -> ClassifyJob:
    """Opens the adapter in `folder`, its base and the images. Raises LoradarError for one that cannot be read.

    With `transductive` the images help each other, which needs those that the adapter was fitted on: `support`, else what
    its card names. With `key`, the file of a public key, the folder must be signed by its owner.
    """
    if support is not None and not transductive:
        raise BadConfigError("support is for answering together alone; give --transductive, or leave --support out")
    adapter = open_task(folder, key=key)
    opened = open_base(base or base_of_task(folder, adapter), "cpu")
    size = opened.input_size[1:]
    shown = _fitted_on(folder, adapter.card, support, size) if transductive else None
    x = read_images(images, size=size)
    task = FewShotClassifier.load(folder, base=opened, support=shown, key=key)
    return ClassifyJob(task=task, x=x, names=tuple(map(str, images)))


def run(job: ClassifyJob, *, progress: Progress | None = None) -> list[Answer]:
    """What the task says of each image."""
    bar = (progress or NullProgress()).task("classify", len(job.x))
    shares = job.task.predict_proba(job.x)
    bar.advance(len(job.x))
    classes = job.task.adapter_.card.classes
    return [
        Answer(image=name, answer=classes[int(row.argmax())], confidence=float(row.max()))
        for name, row in zip(job.names, shares, strict=True)
    ]


def _fitted_on(folder: Path, card: Card, support: str | None, size: tuple[int, int]) -> tuple[Images, list[Any]]:
    """The images that an adapter was fitted on, and their labels. Raises BadFileError, BadDataError for others."""
    spec = support or str(card.data.get("support", ""))
    if not spec:
        raise BadFileError(f"{folder} does not say which images it was fitted on; give them with --support")
    try:
        source = load_source(spec, size=size)
        x, y = support_of(source, cast("int | None", card.data.get("shot")))
    except BadDataError as error:
        if support is not None:
            raise
        raise BadDataError(
            f"{folder} was fitted on {spec}, from here: {error}; or give the images with --support"
        ) from error
    if source.classes != card.classes or len(y) != card.data.get("images", len(y)):
        raise BadDataError(
            f"{spec} has {len(y)} images of {', '.join(source.classes)}, {folder} was fitted on {card.data.get('images')} of "
            f"{', '.join(card.classes)}; give those with --support"
        )
    labels = card.data.get(LABELS, card.classes)
    return x, [labels[code] for code in y.tolist()]
