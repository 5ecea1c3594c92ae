"""Strange attacks: of no kind that a guard knows. They teach its identifier what is neither clean nor a known threat."""

from collections.abc import Iterable, Mapping

from loradar.attacks import named_attacks
from loradar.core.types import Attack


def fitted_strangers(specs: Iterable[str], threats: Mapping[str, Attack]) -> dict[str, Attack]:
    """Reads the attacks of `specs` that are of no threat's kind: another method, or in another norm."""
    known = {kind for attack in threats.values() for kind in _kinds(attack)}
    found = {attack.spec: attack for attack in named_attacks([f"s{i}={spec}" for i, spec in enumerate(specs)]).values()}
    return {spec: attack for spec, attack in found.items() if not known & set(_kinds(attack))}


def _kinds(attack: Attack) -> list[tuple[str, str]]:
    """The names and norms of an attack's parts; a rectangle is one kind, whatever fills it."""
    if attack.traits.parts:
        return [kind for part in attack.traits.parts for kind in _kinds(part)]
    region = attack.traits.region
    if isinstance(region, tuple):
        return [("rectangle", "")]
    return [(attack.spec.partition(":")[0], type(region).__name__)]
