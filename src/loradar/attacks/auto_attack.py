"""AutoAttack, the standard ensemble of parameter-free attacks, through the package `pyautoattack`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from loradar.attacks.base import NormAttack
from loradar.attacks.objectives import borrowed, logits_of
from loradar.attacks.registry import register
from loradar.attacks.settings import seed_setting, setting
from loradar.core.checks import check_labels
from loradar.core.errors import BadConfigError
from loradar.core.modules import Wrapper
from loradar.core.randomness import seeded_rng
from loradar.core.types import Images, Labels, Traits

Member: TypeAlias = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]


@register("autoattack")
@dataclass(frozen=True, kw_only=True)
class AutoAttack(NormAttack):
    """Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of ...", ICML 2020.

    `attacks` of None is the standard version: apgd-ce, apgd-t, fab-t, square, with 9 target classes or as many as there
    are; below 4 classes, where the targeted DLR loss of apgd-t is not defined, apgd-dlr stands in for it at 3 classes
    and nothing at 2. Each member attacks what still resists; an image that none fools, or that is misclassified to
    begin with, comes back as it was.
    """

    attacks: tuple[Member, ...] | None = setting(None, "Its members; none means the standard version.")
    seed: int = seed_setting()

    @property
    def traits(self) -> Traits:
        """Members go on with what still resists, and draw for the batch as a whole."""
        gradient_free = self.attacks is not None and set(self.attacks) == {"square"}
        return Traits(needs_gradients=not gradient_free, independent_rows=False, whole_batches=False, region=self.ball)

    def __call__(self, model: nn.Module, x: Images, y: Labels) -> Images:
        """(batch, C, H, W) in [0, 1] and in the ball. Raises BadImagesError, and BadConfigError without the extra."""
        package = _package()
        with borrowed(model, x, y) as (x, y), seeded_rng(self.seed), _trace_kept():
            with torch.no_grad():
                classes = logits_of(model, x[:1]).shape[1]
            check_labels(y, count=len(x), classes=classes)
            engine = package.AutoAttack(
                _Plain(model),
                norm={"linf": "Linf", "l2": "L2"}[self.norm],
                eps=self.eps,
                seed=self.seed,
                device=x.device,
                version="custom",
                attacks=list(members(self.attacks, classes)),
            )
            # what its version 'standard' sets, which would also choose the members
            engine.apgd.n_restarts = engine.fab.n_restarts = engine.apgd_targeted.n_restarts = 1
            engine.fab.n_target_classes = engine.apgd_targeted.n_target_classes = min(9, classes - 1)
            x_adv, _ = engine.run_standard_evaluation(x, y, batch_size=len(x))
            # its own projections round to a little outside
            return self.ball.project(x_adv.detach().to(x), x).clamp(0, 1)


def members(chosen: tuple[Member, ...] | None, classes: int) -> tuple[Member, ...]:
    """Which attacks run. Raises BadConfigError for one that needs more classes than there are.

    >>> members(None, 3)
    ('apgd-ce', 'apgd-dlr', 'fab-t', 'square')
    """
    needs: dict[Member, int] = {"apgd-t": 4, "apgd-dlr": 3}
    if chosen is None:
        standard: dict[int, tuple[Member, ...]] = {
            2: ("apgd-ce", "fab-t", "square"),
            3: ("apgd-ce", "apgd-dlr", "fab-t", "square"),
        }
        return standard.get(classes, ("apgd-ce", "apgd-t", "fab-t", "square"))
    for name in chosen:
        if classes < needs.get(name, 2):
            raise BadConfigError(f"{name} needs {needs.get(name, 2)} classes or more; the model has {classes}")
    return chosen


def _package() -> Any:
    try:
        import pyautoattack
    except ImportError as error:
        raise BadConfigError("AutoAttack needs the package pyautoattack: pip install 'loradar[autoattack]'") from error
    return pyautoattack


class _Plain(Wrapper):
    """The model, with logits in single precision at least."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.wrapped = model
        self.training = False

    def forward(self, x: Images) -> torch.Tensor:
        return logits_of(self.wrapped, x)


@contextmanager
def _trace_kept() -> Iterator[None]:
    """Puts back the trace function of a debugger or of coverage, which the package's check of the model drops."""
    trace = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(trace)
