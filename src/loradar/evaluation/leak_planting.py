"""Plants labels: attacks each image for several of them and asks a model about the results."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from loradar.core.checks import check_images, check_labels
from loradar.core.errors import BadConfigError
from loradar.core.files import sha256
from loradar.core.modules import answers_of, check_logits, evaluating
from loradar.core.randomness import generator
from loradar.core.types import Attack, Images, Labels, Logits, Progress
from loradar.evaluation.leak_signs import PlantedAnswers
from loradar.evaluation.measure import device_of, run_attack

LIKELY = 3
"""How many likely wrong labels are planted beside the random one."""


def plant(
    model: nn.Module,
    base: nn.Module,
    x: Images,
    y: Labels,
    *,
    true: Attack,
    predicted: Attack,
    given: Attack,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> PlantedAnswers:
    """Attacks `base` at `x` for the labels of the leak test, and collects what `model` answers.

    Raises BadImagesError, and BadConfigError for a single class or another number of them than the base has.
    """
    classes = _classes(base, x)
    base_logits, clean = _logits(base, x, batch_size), _logits(model, x, batch_size)
    if clean.shape[1] != classes:
        raise BadConfigError(f"the model has {clean.shape[1]} classes and the base {classes}; expected as many")
    check_labels(y, count=len(x), classes=classes)
    y = y.cpu()

    def ask(attack: Attack, labels: Labels, rows: Tensor) -> _Asked:
        x_adv = run_attack(attack, base, x[rows], labels[rows], batch_size=batch_size, progress=progress)
        return _Asked.of(_logits(model, x_adv, batch_size), labels[rows], x_adv)

    # a base that answers nothing (NaN) gets class 0 as what it predicts: some label must be given
    base_says = answers_of(base_logits).clamp_min(0)
    wrong = _wrong_labels(y, classes, seed)
    planted = [wrong, *_likely_labels(clean, (y, wrong), base_says)]
    everywhere, misses = torch.arange(len(y)), torch.nonzero(base_says != y).squeeze(1)
    asked = [ask(true, y, everywhere)]
    # where the base is right its answer is the true label, and that attack has been run
    asked.append(asked[0].with_rows(misses, ask(predicted, base_says, misses)) if len(misses) else asked[0])
    asked += [ask(given, labels, everywhere) for labels in planted]
    labels = torch.stack([y, base_says, *planted], 1)
    digests = list(zip(_digests(x), *(one.digests for one in asked), strict=True))
    return PlantedAnswers(
        y=y,
        clean=answers_of(clean),
        labels=labels,
        answers=torch.stack([one.answers for one in asked], 1),
        ranks=torch.stack([one.ranks for one in asked], 1),
        carried=torch.tensor([_carried(*pair) for pair in zip(digests, labels.tolist(), strict=True)]),
        surest=_surest_half(clean),
        classes=classes,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """What the model answers to the images of one attack, how it ranks their planted labels, and what tells them apart."""

    answers: Tensor
    ranks: Tensor
    digests: tuple[str, ...]

    @classmethod
    def of(cls, logits: Logits, labels: Labels, x_adv: Images) -> "_Asked":
        planted = logits.gather(1, labels[:, None])
        # what answers NaN ranks nothing
        ranks = (logits > planted).sum(1).masked_fill(logits.isnan().any(1), logits.shape[1])
        return cls(answers=answers_of(logits), ranks=ranks, digests=_digests(x_adv))

    def with_rows(self, rows: Tensor, others: "_Asked") -> "_Asked":
        """These, but those of `others` at `rows`, (m,) int64."""
        digests = dict(enumerate(self.digests)) | dict(zip(rows.tolist(), others.digests, strict=True))
        return _Asked(
            answers=self.answers.index_copy(0, rows, others.answers),
            ranks=self.ranks.index_copy(0, rows, others.ranks),
            digests=tuple(digests.values()),
        )


def _surest_half(clean: Logits) -> Tensor:
    """bool (n,): the images whose two largest logits lie furthest apart."""
    first, second = clean.nan_to_num(nan=0.0).topk(2, dim=1).values.unbind(1)
    order = (first - second).argsort(dim=0, descending=True, stable=True)
    surest = torch.zeros(len(order), dtype=torch.bool)
    surest[order[: (len(order) + 1) // 2]] = True
    return surest


def _carried(digests: tuple[str, ...], labels: list[int]) -> list[bool]:
    """Whether each attacked image can tell its label: not the clean one, and not the same for another label."""
    clean, *attacked = digests
    return [
        own != clean and all(own != other or label == given for other, given in zip(attacked, labels, strict=True))
        for own, label in zip(attacked, labels, strict=True)
    ]


def _digests(x: Images) -> tuple[str, ...]:
    return tuple(sha256(image.numpy().tobytes()) for image in x.detach().cpu().float().contiguous())


def _logits(model: nn.Module, x: Images, batch_size: int) -> Logits:
    """(n, classes) float32 on the CPU, in eval mode. Raises BadImagesError."""
    device, found = device_of(model), []
    with evaluating(model), torch.no_grad():
        for batch in torch.split(x, batch_size):
            check_images(batch)
            found.append(check_logits(model(batch.to(device)), len(batch)).float().cpu())
    return torch.cat(found)


def _classes(base: nn.Module, x: Images) -> int:
    with evaluating(base), torch.no_grad():
        classes = int(base(x[:1].to(device_of(base))).shape[1])
    if classes < 2:
        raise BadConfigError(f"the base has {classes} class; a leak test needs a wrong label, so 2 or more")
    return classes


def _wrong_labels(y: Labels, classes: int, seed: int) -> Labels:
    shift = torch.randint(1, classes, (len(y),), generator=generator(seed))
    return (y + shift) % classes


def _likely_labels(clean: Logits, taken: tuple[Labels, Labels], base_says: Labels) -> list[Labels]:
    """The `LIKELY` labels of the largest logits that are not `taken`; fewer where there are fewer classes.

    What the base or the model itself answers on the clean image comes last: an honest model answers it under every
    attack but its own, which shows nothing.
    """
    logits = clean.nan_to_num(nan=0.0)
    # places in the order of the logits: whatever their scale, -1 and -2 come after them
    places = logits.argsort(dim=1, stable=True).argsort(dim=1)
    for last in (base_says, logits.argmax(1)):
        places.scatter_(1, last[:, None], -1)
    for label in taken:
        places.scatter_(1, label[:, None], -2)
    count = min(LIKELY, clean.shape[1] - len(taken))
    return list(places.argsort(dim=1, descending=True, stable=True)[:, :count].unbind(1))
