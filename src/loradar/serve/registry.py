"""Names of models and their versions: which one answers, loading and swapping beside running answers."""

import itertools
import math
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from loradar.serve.errors import Refused
from loradar.serve.models import Served
from loradar.serve.names import check_name

State: TypeAlias = Literal["loading", "loaded", "failed", "evicted"]
_REMEMBERED = 16
"""Versions that were active before, which a model may be rolled back to one after the other."""
Opener: TypeAlias = Callable[[str, str, str], Served]
"""Opens a place under the name and the version that it gets: `open(place, name, version)`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Version:
    """A version of a model, in memory where it is loaded. One that was evicted comes back as it was, or not at all."""

    place: str
    state: State = "loading"
    served: Served | None = None
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """What a name stands for at one moment. It is never changed, only replaced whole.

    `before` are the versions that were active earlier, the last one last; `weights`, where there are any, are the shares of
    the traffic that versions get.
    """

    name: str
    versions: Mapping[str, Version] = field(default_factory=dict)
    active: str = ""
    before: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> set[str]:
        """Versions that are never put out of memory: the active one, those with a share, and the one to roll back to."""
        return {self.active, *self.weights, *self.before[-1:]}

    def loaded(self, version: str) -> Served:
        """Returns a version that is in memory. Raises Refused: 404 where there is none, 409 where it is not loaded."""
        found = self.versions.get(version)
        if found is None:
            raise Refused(404, f"{self.name} has no version {version!r:.80}")
        if found.served is None:
            raise Refused(409, f"{self.name}@{version} is {found.state}; an admin may load it")
        return found.served


class Registry:
    """Models by name. Threads may share it: a reader sees a model before a change or after it, nothing between.

    `memory` bounds the bytes of weights; versions that were not asked for lately are put out of it first. Places are opened on
    a thread of their own, one after the other.

    `fixed` is set by who runs several of them that are to be alike: nothing changes any more, and what was put out of memory
    comes back when it is asked for.
    """

    def __init__(self, open_place: Opener, *, memory: int | None = None) -> None:
        self._open, self._memory = open_place, memory
        self._models: dict[str, Model] = {}
        self._lock = threading.Lock()
        self._clock = itertools.count()
        self._used: dict[tuple[str, str], int] = {}
        self.fixed = False
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loradar-loader")

    def models(self) -> list[Model]:
        """Returns every model, in the order of their first versions."""
        return list(self._models.values())

    def model(self, name: str) -> Model:
        """Returns a model. Raises Refused (404)."""
        if name not in self._models:
            raise Refused(404, f"there is no model {name!r:.80}")
        return self._models[name]

    def choose(self, name: str, version: str = "") -> Served:
        """Returns the version that is to answer: the one asked for, else one drawn by the shares, else the active one.

        Raises Refused where there is none, or it is not loaded.
        """
        model = self.model(name)
        if not version and model.weights:
            version = random.choices(list(model.weights), list(model.weights.values()))[0]
        if not (version or model.active):
            raise Refused(503, f"{name} has no version that is loaded yet", retry_after=5)
        version = version or model.active
        if self.fixed and version in model.versions:
            self._bring_back(model, version)
        served = model.loaded(version)
        self._used[name, served.version] = next(self._clock)
        return served

    def check_changeable(self) -> None:
        """Raises Refused (409) where nothing may be changed."""
        if self.fixed:
            raise Refused(409, "replicas change together: run `loradar serve` again with all that is to be served")

    def load(self, name: str, place: str, version: str = "") -> "tuple[str, Future[Served]]":
        """Opens a place as a version, by default the next of v1, v2, ...; returns its name at once, and its future.

        The first version of a name becomes the active one. One that failed or was evicted may be loaded again. Raises
        Refused (409) where there is such a version, BadConfigError for a name that no address has.
        """
        self.check_changeable()
        check_name(name, "a model")
        with self._lock:
            model = self._models.get(name, Model(name=name))
            version = version or next(v for n in itertools.count(1) if (v := f"v{n}") not in model.versions)
            check_name(version, "a version")
            old = model.versions.get(version)
            if old is not None and old.state in ("loading", "loaded"):
                raise Refused(409, f"{name}@{version} is {old.state} already; choose another version")
            expected = old.fingerprint if old else ""
            self._put(model, version, Version(place=place, fingerprint=expected))
        return version, self._loader.submit(self._load, name, version, place, expected)

    def activate(self, name: str, version: str) -> Model:
        """Makes a loaded version the active one, which gets all traffic. Raises Refused."""
        self.check_changeable()
        with self._lock:
            model = self.model(name)
            model.loaded(version)
            before = model.before if version == model.active else (*model.before, model.active)[-_REMEMBERED:]
            return self._set(replace(model, active=version, before=before, weights={}))

    def roll_back(self, name: str) -> Model:
        """Makes the version active that was before. Raises Refused (409) where there was none."""
        self.check_changeable()
        with self._lock:
            model = self.model(name)
            if not model.before:
                raise Refused(409, f"{name} has no version that was active before")
            model.loaded(model.before[-1])
            return self._set(replace(model, active=model.before[-1], before=model.before[:-1], weights={}))

    def weigh(self, name: str, weights: Mapping[str, float]) -> Model:
        """Splits the traffic among loaded versions by shares that sum to 1; none of them give it back to the active one.

        Raises Refused (422 for shares that do not sum to 1).
        """
        self.check_changeable()
        with self._lock:
            model = self.model(name)
            for version in weights:
                model.loaded(version)
            proper = all(math.isfinite(share) and share >= 0 for share in weights.values())
            if weights and not (proper and math.isclose(sum(weights.values()), 1, abs_tol=1e-6)):
                raise Refused(422, "the shares do not sum to 1; expected numbers of 0 or more that do")
            return self._set(replace(model, weights={v: share for v, share in weights.items() if share}))

    def unload(self, name: str, version: str) -> Model:
        """Forgets a version; what it was asked already it still answers. Raises Refused (409) for one that traffic goes to."""
        self.check_changeable()
        with self._lock:
            model = self.model(name)
            if version not in model.versions:
                raise Refused(404, f"{name} has no version {version!r:.80}")
            if version in (model.active, *model.weights) or model.versions[version].state == "loading":
                raise Refused(409, f"{name}@{version} is in use; activate another version first")
            versions = {key: found for key, found in model.versions.items() if key != version}
            return self._set(replace(model, versions=versions, before=tuple(v for v in model.before if v != version)))

    def forget(self, name: str) -> None:
        """Forgets a model and all of its versions. Raises Refused (404, 409 while one of them is loading)."""
        self.check_changeable()
        with self._lock:
            if any(version.state == "loading" for version in self.model(name).versions.values()):
                raise Refused(409, f"{name} has a version that is loading; wait for it")
            del self._models[name]

    def close(self) -> None:
        """Waits for what is loading, and loads nothing more."""
        self._loader.shutdown(cancel_futures=True)

    def _bring_back(self, model: Model, version: str) -> None:
        """Begins to load what was put out of memory. Raises Refused (503) until it is loaded."""
        with self._lock:
            found = self.model(model.name).versions[version]
            if found.state == "evicted":
                self._put(self.model(model.name), version, replace(found, state="loading"))
                self._loader.submit(self._load, model.name, version, found.place, found.fingerprint)
        if found.state in ("evicted", "loading"):
            raise Refused(503, f"{model.name}@{version} is being loaded; come again", retry_after=1)

    def _load(self, name: str, version: str, place: str, expected: str) -> Served:
        try:
            served = self._open(place, name, version)
            if expected and served.fingerprint != expected:
                raise Refused(409, f"{name}@{version} was another model before; load it as another version")
            with self._lock:
                model = self._make_room(self._models[name], served)
                self._used[name, version] = next(self._clock)
                self._put(
                    model if model.active else replace(model, active=version),
                    version,
                    Version(place=place, state="loaded", served=served, fingerprint=served.fingerprint),
                )
        except BaseException:
            with self._lock:
                self._put(self._models[name], version, Version(place=place, state="failed", fingerprint=expected))
            raise
        return served

    def _make_room(self, model: Model, coming: Served) -> Model:
        """Puts out of memory what was not asked for lately, until `coming` fits; returns the model as it is then."""
        if self._memory is None:
            return model
        there = {
            (one.name, key): version.served
            for one in self._models.values()
            for key, version in one.versions.items()
            if version.served is not None
        }
        kept = {(one.name, key) for one in self._models.values() for key in one.kept}
        size = coming.size + sum(served.size for served in there.values())
        needed = coming.size + sum(served.size for place, served in there.items() if place in kept)
        if needed > self._memory:
            raise Refused(507, f"the weights in use would be {needed} bytes; the server may hold {self._memory}")
        for name, key in sorted(there.keys() - kept, key=lambda place: self._used[place]):
            if size <= self._memory:
                break
            size -= there[name, key].size
            one = self._models[name]
            self._put(one, key, replace(one.versions[key], state="evicted", served=None))
        return self._models[model.name]

    def _put(self, model: Model, key: str, version: Version) -> None:
        self._set(replace(model, versions={**model.versions, key: version}))

    def _set(self, model: Model) -> Model:
        self._models[model.name] = model
        return model
