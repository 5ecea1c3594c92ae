"""An adapter of a few-shot task names what is on images: one by one, or together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from loradar.adapters import Adapter, feature_extractor, load, merge_weights
from loradar.core.errors import BadConfigError, BadDataError, BadFileError
from loradar.core.types import Images, Labels
from loradar.data import read_images
from loradar.fewshot.fit import HEAD, support_of
from loradar.fewshot.heads import Centroids, HeadConfig, HeadKind, Ridge, TaskClassifier
from loradar.fewshot.transduction import Transduction
from loradar.models import Base, open_base


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an adapter says of an image: the class, and its share of a softmax over the logits (by centroid, scaled cosines)."""

    image: str
    answer: str
    confidence: float


def few_shot_classify(
    folder: Path, images: Sequence[Path], *, base: str | None = None, together: bool = False, support: str | None = None
) -> list[Answer]:
    """What the adapter of `folder` says of each image. Raises LoradarError, before any answer, for one it cannot read.

    With `together` the images help each other (`Transduction`), which needs those that the adapter was fitted on: `support`,
    else what its card names.
    """
    adapter = load(folder)
    card = adapter.card
    if not card.classes:
        raise BadFileError(f"{folder} is no adapter of a few-shot task; expected one that `loradar few-shot fit` wrote")
    spec = base or str(card.data.get("base", ""))
    if not spec:
        raise BadFileError(f"{folder} does not say which base it is for; give it with --base")
    if support is not None and not together:
        raise BadConfigError("support is for answering together alone; give --together, or leave --support out")
    opened = open_base(spec, "cpu")
    x = read_images(images, size=opened.input_size[1:])
    features = feature_extractor(merge_weights(opened.model, adapter))
    with torch.no_grad():
        # the plugged head is linear: it answers times the length of the features, whose softmax says little
        weight = adapter.modules_to_save[f"{card.head}.weight"]
        kind: HeadKind = "ridge" if card.data.get(HEAD) == "ridge" else "centroid"
        head: nn.Module = Ridge(weight) if kind == "ridge" else Centroids(weight)
        if together:
            shown, labels = _shown_again(adapter, folder, support, opened)
            head = HeadConfig(kind=kind, transduction=Transduction())(
                features(shown).float(), labels, len(card.classes)
            )
        shares = TaskClassifier(features, head)(x).softmax(1)
    return [
        Answer(image=str(path), answer=card.classes[int(row.argmax())], confidence=float(row.max()))
        for path, row in zip(images, shares, strict=True)
    ]


def _shown_again(adapter: Adapter, folder: Path, support: str | None, base: Base) -> tuple[Images, Labels]:
    """The images that an adapter was fitted on, and their labels. Raises BadFileError, BadDataError for others."""
    data = adapter.card.data
    spec = support or str(data.get("support", ""))
    if not spec:
        raise BadFileError(f"{folder} does not say which images it was fitted on; give them with --support")
    try:
        x, y, classes = support_of(spec, cast("int | None", data.get("shot")), base)
    except BadDataError as error:
        if support is not None:
            raise
        raise BadDataError(
            f"{folder} was fitted on {spec}, from here: {error}; or give the images with --support"
        ) from error
    if classes != adapter.card.classes or len(y) != data.get("images", len(y)):
        raise BadDataError(
            f"{spec} has {len(y)} images of {', '.join(classes)}, {folder} was fitted on {data.get('images')} of "
            f"{', '.join(adapter.card.classes)}; give those with --support"
        )
    return x, y
