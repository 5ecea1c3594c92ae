"""A source of data: its splits, each read when it is first asked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from loradar.core.errors import BadDataError
from loradar.data.images import ImageSet

TRAIN = ("train", "training")
TEST = ("test", "testing", "validation", "val", "valid", "dev", "eval")
"""Names of a split that figures are reported on, the best first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Named splits of one set of classes. A source with one split has it as `train`, whatever its name.

    Raises BadDataError where no split is the one to train on.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Callable[[], ImageSet]]

    def __post_init__(self) -> None:
        if self._name_of(TRAIN) is None and len(self.splits) != 1:
            found = ", ".join(repr(name) for name in self.splits) or "none"
            raise BadDataError(f"{self.name} has splits {found}; expected 'train', and 'test' if there is one")

    @cached_property
    def train(self) -> ImageSet:
        """The split to train on."""
        return self.splits[self._name_of(TRAIN) or next(iter(self.splits))]()

    @cached_property
    def test(self) -> ImageSet | None:
        """The split to report on: 'test', else 'validation'; None where there is none."""
        name = self._name_of(TEST)
        return None if name is None or len(self.splits) == 1 else self.splits[name]()

    def _name_of(self, wanted: tuple[str, ...]) -> str | None:
        return next((name for name in wanted if name in self.splits), None)
