"""Few-shot tasks of a data source: the same number is the same task, whoever asks."""

from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from loradar.core.errors import BadConfigError, BadDataError
from loradar.core.names import check_names
from loradar.core.randomness import generator
from loradar.core.types import Images, Labels
from loradar.data import ImageSet, Source, load_source
from loradar.fewshot.episode import Episode, Sampler


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """An episode with its pictures: images (n, 3, H, W) in [0, 1] and labels from 0 to way - 1."""

    episode: Episode
    support: Images
    query: Images

    @classmethod
    def of_support(cls, x: Images, y: Labels, way: int) -> "Task":
        """A task in memory, without queries: images (n, 3, H, W) and labels from 0 to way - 1."""
        none = torch.arange(0)
        episode = Episode(
            classes=tuple(range(way)), support=torch.arange(len(y)), support_labels=y, query=none, query_labels=none
        )
        return cls(episode=episode, support=x, query=x[:0])

    @property
    def way(self) -> int:
        return self.episode.way

    @property
    def support_labels(self) -> Labels:
        return self.episode.support_labels

    @property
    def query_labels(self) -> Labels:
        return self.episode.query_labels


@dataclass(frozen=True, kw_only=True, eq=False)
class Domain:
    """A named set of images that tasks are drawn from."""

    name: str
    images: ImageSet
    seed: int

    def episode(self, sampler: Sampler, index: int) -> Episode:
        """Raises BadDataError, naming the domain, where it is too small for the sampler."""
        try:
            return sampler(self.images.labels, index=index, seed=self.seed, groups=self.images.groups)
        except BadDataError as error:
            raise BadDataError(f"{self.name}: {error}") from error

    def task(self, sampler: Sampler, index: int, device: torch.device | str = "cpu") -> Task:
        episode = self.episode(sampler, index)
        support, query = (self.images.fetch(indices)[0].to(device) for indices in (episode.support, episode.query))
        return Task(episode=_to(episode, device), support=support, query=query)


def _to(episode: Episode, device: torch.device | str) -> Episode:
    return Episode(
        classes=episode.classes,
        support=episode.support,
        query=episode.query,
        support_labels=episode.support_labels.to(device),
        query_labels=episode.query_labels.to(device),
    )


def in_order(x: Images, y: Labels) -> tuple[Images, Labels]:
    """Brings a support into one order, whatever order it is given in: by class, then by what is on the images."""
    marks = [(int(label), sha256(image.numpy().tobytes()).digest()) for image, label in zip(x.cpu(), y, strict=True)]
    order = torch.tensor(sorted(range(len(marks)), key=lambda i: marks[i]))
    return x[order], y[order]


def share(answers: Tensor, labels: Labels) -> float:
    """Of right answers, in [0, 1]; both (n,)."""
    return float((answers.cpu() == labels.cpu()).float().mean())


def named_domain(text: str, *, size: tuple[int, int], seed: int) -> Domain:
    """`NAME=SOURCE`. Raises BadConfigError where it is not, BadDataError where the source cannot be read."""
    name, sign, spec = text.partition("=")
    if not (sign and name and spec):
        raise BadConfigError(f"domain {text!r} cannot be read; expected NAME=SOURCE, such as eurosat=path/to/images")
    check_names([name], "a domain")
    source = load_source(spec, size=size)
    return Domain(name=name, images=_reported(source), seed=seed)


def _reported(source: Source) -> ImageSet:
    return source.train if source.test is None else source.test


def split_classes(images: ImageSet, *, held_out: int, per_class: int | None, seed: int) -> tuple[ImageSet, ImageSet]:
    """(to tune on, to validate on): disjoint classes, the first `per_class` images of each.

    Raises BadDataError where too few classes are left.
    """
    known = torch.unique(images.labels)
    if len(known) <= held_out:
        raise BadDataError(f"{images.name} has {len(known)} classes; {held_out} to hold out leave none to tune on")
    apart = known[torch.randperm(len(known), generator=generator(seed))[:held_out]]
    outside = torch.isin(images.labels, apart)
    rows = _first(images.labels, per_class)
    return images.select(rows[~outside[rows]]), images.select(rows[outside[rows]])


def first_of_each(images: ImageSet, per_class: int | None) -> ImageSet:
    """The first `per_class` images of each class; all of them for None."""
    return images if per_class is None else images.select(_first(images.labels, per_class))


def _first(labels: Labels, per_class: int | None) -> Tensor:
    rows = [(labels == label).nonzero().squeeze(1)[:per_class] for label in torch.unique(labels)]
    return torch.cat(rows).sort().values
