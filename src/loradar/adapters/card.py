"""What an adapter says of itself."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from loradar import __version__
from loradar.core.errors import BadFileError

Norm: TypeAlias = Literal["frozen", "statistics", "affine", "owned"]
"""What of the normalisation layers moves in training and belongs to the adapter: nothing, the running statistics, the gains
and biases (of LayerNorm too), or both."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """Plain values only: it goes to JSON and back unchanged.

    `base_fingerprint` is "" where it is not known (a folder that PEFT wrote). `rank` and `lora_alpha` are what was asked
    for; where layers have ranks of their own, or deltas were merged, they are 0 and the deltas say more. `head` is the
    first layer that makes the logits, "" where the adapter has none of its own; `modules_to_save` are all modules trained
    whole, the heads first.
    `classes` names what the head answers, in order, where that is not what the base answers.
    `trained_against` is the attack's spec, `attack_target` the model it was computed on. `measured` holds rows, each
    with its counts, attack, threat and seed. `created` is an ISO 8601 time.
    """

    name: str = "adapter"
    base_fingerprint: str = ""
    target_modules: tuple[str, ...] = ()
    rank: int = 0
    lora_alpha: float = 0.0
    init: str = "random"
    head: str = ""
    modules_to_save: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    norm: Norm = "frozen"
    trained_against: str = ""
    attack_target: Literal["base", "defended", ""] = ""
    data: dict[str, Any] = field(default_factory=dict)
    measured: list[dict[str, Any]] = field(default_factory=list)
    selected_epoch: int | None = None
    seed: int = 0
    loradar_version: str = __version__
    created: str = ""

    def __post_init__(self) -> None:
        # cards of the first version name a head alone
        if self.head and self.head not in self.modules_to_save:
            object.__setattr__(self, "modules_to_save", (self.head, *self.modules_to_save))

    def to_json(self) -> str:
        return _ADAPTER.dump_json(self, indent=2).decode()

    @staticmethod
    def from_json(text: str | bytes) -> "Card":
        """Raises BadFileError where a field has the wrong type. Fields of a later version are left out."""
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the text"
            raise BadFileError(f"not an adapter's card: {where}: {first['msg']}") from error


_ADAPTER = TypeAdapter(Card)
