"""Two-round masking: answers that no single rectangle up to a given size can change, where the certificate holds.

Xiang, Mahloujifar and Mittal, "PatchCleanser: Certifiably Robust Defense against Adversarial Patches for Any Image
Classifier", USENIX Security 2022 (arXiv 2108.09135), sections 3.2 to 3.4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from loradar.core.errors import BadConfigError
from loradar.core.types import Images, Labels, Logits

Classify: TypeAlias = Callable[[Images], Logits]
GREY = 0.5
_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class MaskSet:
    """`count` masks an axis such that every rectangle of `height` x `width` (pixels) lies inside one of them whole."""

    height: int
    width: int
    count: int = 6

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.count < 2:
            raise BadConfigError(
                f"masks against {self.height} x {self.width} pixels, {self.count} an axis; expected sizes of 1 or more and "
                "2 masks or more"
            )

    def masks(self, image: tuple[int, int]) -> Tensor:
        """Makes (n, height, width) bool masks, True where an image is painted over. Section 3.4, equations 4 and 5.

        Raises BadConfigError where the rectangle does not fit the image.
        """
        rows = _intervals(image[0], self.height, self.count)
        columns = _intervals(image[1], self.width, self.count)
        return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)


def _intervals(size: int, patch: int, count: int) -> Tensor:
    """Makes (n, size) bool intervals; any `patch` neighbouring pixels lie inside one of them whole."""
    if patch > size:
        raise BadConfigError(f"a rectangle of {patch} pixels does not fit an image of {size}")
    stride = -(-(size - patch + 1) // count)
    length = patch + stride - 1
    starts = sorted({min(start, size - length) for start in range(0, size - patch + 1, stride)})
    places = torch.arange(size)
    return torch.stack([(places >= start) & (places < start + length) for start in starts])


def pair_answers(classify: Classify, x: Images, masks: Tensor) -> Labels:
    """Classifies with each pair of masks painted grey, one mask alone on the diagonal: (batch, n, n)."""
    first, second = torch.triu_indices(len(masks), len(masks), device=masks.device)
    answers = mask_answers(classify, x, masks[first] | masks[second])
    table = answers.new_zeros(x.shape[0], len(masks), len(masks))
    table[:, first, second] = answers
    table[:, second, first] = answers
    return table


def two_round(table: Labels) -> Labels:
    """Answers from a table of `pair_answers`: (batch,). Algorithm 1.

    All masks agree: that answer. Otherwise a mask that disagrees with the majority is believed where every second mask
    agrees with it; otherwise the majority (of a tie, the smaller class).
    """
    single = table.diagonal(dim1=1, dim2=2)
    # `mode`, whose ties go to the smaller class too, but which ONNX lacks
    counts = (single[:, :, None] == single[:, None, :]).sum(2)
    is_most = counts == counts.amax(1, keepdim=True)
    majority = single.masked_fill(~is_most, torch.iinfo(single.dtype).max).amin(1)
    believed = (table == single[:, :, None]).all(2) & (single != majority[:, None])
    first = believed.int().argmax(1, keepdim=True)
    return torch.where(believed.any(1), single.gather(1, first)[:, 0], majority)


def certified(table: Labels) -> Tensor:
    """Tells where all pairs of masks give one answer, which no rectangle of the size then changes: (batch,) bool.

    Theorem 1. It is about the image that was masked: for a clean one, no attack of this kind changes its answer.
    """
    flat = table.flatten(1)
    return (flat == flat[:, :1]).all(1)


def patch_cleanser(classify: Classify, x: Images, masks: Tensor) -> tuple[Labels, Tensor]:
    """Answers by two-round masking, and counts the forward passes: (batch,) both; pairs only on disagreement.

    The answers are those of `two_round` on the whole table.
    """
    single = mask_answers(classify, x, masks)
    answers = single[:, 0].clone()
    passes = torch.full((len(x),), float(len(masks)), device=x.device)
    rows = torch.nonzero((single != single[:, :1]).any(1)).squeeze(1)
    if len(rows):
        answers[rows] = two_round(pair_answers(classify, x[rows], masks))
        passes[rows] += len(masks) * (len(masks) - 1) / 2
    return answers, passes


def mask_answers(classify: Classify, x: Images, masks: Tensor) -> Labels:
    """Classifies with each of the masks painted grey, a bounded number of images at once: (batch, len(masks))."""
    # len() would fix the size of the batches that an exported guard takes
    at_once = len(masks) if torch.compiler.is_exporting() else max(1, _AT_ONCE // max(1, x.shape[0]))
    parts = []
    for chosen in torch.split(masks, at_once):
        painted = x[:, None].masked_fill(chosen[None, :, None], GREY)
        parts.append(classify(painted.flatten(0, 1)).argmax(1).view(x.shape[0], len(chosen)))
    return torch.cat(parts, dim=1)
