"""Which measures a suspected attack is met with: a policy from threat to measures, and two levels of alarm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from loradar.core.errors import BadConfigError, did_you_mean
from loradar.guard.defenses import DEFENSES, Defense

Level: TypeAlias = Literal["calm", "raised"]
CLEAN, UNKNOWN = "clean", "unknown"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Measures by threat, taken while the level is raised; every one is undone by the next image that is not suspected.

    `forced` measures are taken on every image at either level, `forbidden` ones never, whatever the threats say. With
    `mask`, the answer is that of masking, and what other measures did to the image is seen by it.
    """

    responses: Mapping[str, tuple[Defense, ...]] = field(default_factory=dict)
    forced: tuple[Defense, ...] = ()
    forbidden: tuple[Defense, ...] = ()

    def check(self, threats: tuple[str, ...]) -> None:
        """Raises BadConfigError for a threat that is not among `threats` or `unknown`, or a measure that is none.

        `threats` themselves are called neither `clean` nor `unknown`.
        """
        if CLEAN in threats or UNKNOWN in threats:
            raise BadConfigError(f"a threat is called {CLEAN!r} or {UNKNOWN!r}; these names are taken, choose another")
        known = (*threats, UNKNOWN)
        for threat, defenses in self.responses.items():
            if threat not in known:
                raise BadConfigError(f"the policy names the threat {threat!r}; {did_you_mean(threat, known)}")
            _check_measures(defenses)
        _check_measures((*self.forced, *self.forbidden))
        if both := set(self.forced) & set(self.forbidden):
            raise BadConfigError(f"the policy both forces and forbids {min(both)!r}; expected one of the two")

    def taken(self, threat: str, level: Level) -> tuple[Defense, ...]:
        """What is done to an image named `threat`, in the order of MEASURES' transforms, masking last."""
        asked = {*self.forced, *(self.responses.get(threat, ()) if level == "raised" else ())}
        return tuple(m for m in (*DEFENSES[1:], DEFENSES[0]) if m in asked - set(self.forbidden))


def _check_measures(defenses: tuple[Defense, ...]) -> None:
    for defense in defenses:
        if defense not in DEFENSES:
            raise BadConfigError(f"the policy names the measure {defense!r}; {did_you_mean(defense, DEFENSES)}")
