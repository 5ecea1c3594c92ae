"""Who answers an image, and which defenses are applied to it: by its suspected threat, at two levels of alarm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from loradar.core.errors import BadConfigError, did_you_mean
from loradar.guard.defenses import DEFENSES, Defense

Level: TypeAlias = Literal["calm", "raised"]
CLEAN, UNKNOWN = "clean", "unknown"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Defenses by threat, applied image by image while the level of alarm is raised.

    With `answered_by`, that voter answers every image alone and the identifier is a monitor: it names images and moves the
    level, but neither routes nor lets the base answer. "" leaves the answer to the fusion rule and the gate.
    `forced` defenses are applied to every image at either level, `forbidden` ones never. With `mask`, the answer is that
    of two-round masking on the image as the other defenses changed it.
    """

    answered_by: str = ""
    responses: Mapping[str, tuple[Defense, ...]] = field(default_factory=dict)
    forced: tuple[Defense, ...] = ()
    forbidden: tuple[Defense, ...] = ()

    def check(self, threats: tuple[str, ...]) -> None:
        """Raises BadConfigError for a threat that is neither among `threats` nor `unknown`, and for an unknown defense.

        No threat may be called `clean` or `unknown` itself.
        """
        if CLEAN in threats or UNKNOWN in threats:
            raise BadConfigError(f"a threat is called {CLEAN!r} or {UNKNOWN!r}; these names are taken, choose another")
        known = (*threats, UNKNOWN)
        for threat, defenses in self.responses.items():
            if threat not in known:
                raise BadConfigError(f"the policy names the threat {threat!r}; {did_you_mean(threat, known)}")
            _check_defenses(defenses)
        _check_defenses((*self.forced, *self.forbidden))
        if both := set(self.forced) & set(self.forbidden):
            raise BadConfigError(f"the policy both forces and forbids {min(both)!r}; expected one of the two")

    def defenses_for(self, threat: str, level: Level) -> tuple[Defense, ...]:
        """Lists what is applied to an image identified as `threat`, in the order of DEFENSES, masking last."""
        asked = {*self.forced, *(self.responses.get(threat, ()) if level == "raised" else ())}
        return tuple(m for m in (*DEFENSES[1:], DEFENSES[0]) if m in asked - set(self.forbidden))


def _check_defenses(defenses: tuple[Defense, ...]) -> None:
    for defense in defenses:
        if defense not in DEFENSES:
            raise BadConfigError(f"the policy names the defense {defense!r}; {did_you_mean(defense, DEFENSES)}")
