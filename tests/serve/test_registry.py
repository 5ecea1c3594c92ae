"""The registry: versions come, go and are swapped; answers under load are those of the version that they name."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loradar.core.errors import BadConfigError, BadFileError
from loradar.serve.engine import Engine
from loradar.serve.errors import Refused
from loradar.serve.models import Judgement, Opening, Served, open_served
from loradar.serve.names import read_place
from loradar.serve.registry import Model, Registry
from tests.serve.test_models import TOLERANCE


def made(place: str, name: str, version: str) -> Served:
    """A version of 100 bytes whose fingerprint is its place; there is none at "bad"."""
    if place == "bad":
        raise BadFileError("/secret/bad is no model")
    return Served(
        name=name,
        version=version,
        kind="base",
        fingerprint=place,
        classes=("a",),
        input_size=(3, 2, 2),
        size=100,
        judge=lambda x, level: [Judgement(label=0, probabilities=torch.ones(1)) for _ in x],  # noqa: ARG005
    )


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(made, memory=450)
    for place in ("one", "two", "three"):
        registry.load("m", place)[1].result()
    yield registry
    registry.close()


def state(model: Model) -> str:
    """Each version's state by its first letter, the active one in capitals."""
    letters = {key: found.state[0] for key, found in model.versions.items()}
    return " ".join(f"{key}{x.upper() if key == model.active else x}" for key, x in letters.items())


def test_the_first_version_is_active_and_others_are_activated(registry: Registry) -> None:
    assert state(registry.model("m")) == "v1L v2l v3l"
    assert registry.choose("m").fingerprint == "one"
    assert registry.choose("m", "v3").fingerprint == "three"
    registry.activate("m", "v2")
    registry.activate("m", "v3")
    registry.activate("m", "v3")
    assert registry.choose("m").fingerprint == "three"
    assert registry.roll_back("m").active == "v2"
    assert registry.roll_back("m").active == "v1"
    with pytest.raises(Refused, match="no version that was active before"):
        registry.roll_back("m")


def test_shares_split_the_traffic(registry: Registry) -> None:
    registry.weigh("m", {"v1": 0.75, "v2": 0.25})
    counts = Counter(registry.choose("m").version for _ in range(4000))
    assert set(counts) == {"v1", "v2"}
    assert 850 < counts["v2"] < 1150  # five standard deviations
    assert {registry.choose("m", "v3").version for _ in range(20)} == {"v3"}
    registry.weigh("m", {"v1": 0, "v2": 1})
    assert {registry.choose("m").version for _ in range(50)} == {"v2"}
    registry.weigh("m", {})
    assert {registry.choose("m").version for _ in range(50)} == {"v1"}
    registry.weigh("m", {"v2": 1.0})
    assert registry.activate("m", "v3").weights == {}


REFUSED: dict[str, tuple[Callable[[Registry], object], int]] = {
    "no model": (lambda r: r.choose("x"), 404),
    "no version": (lambda r: r.choose("m", "v9"), 404),
    "activate no version": (lambda r: r.activate("m", "v9"), 404),
    "weigh no version": (lambda r: r.weigh("m", {"v9": 1}), 404),
    "shares above 1": (lambda r: r.weigh("m", {"v1": 0.9, "v2": 0.2}), 422),
    "a negative share": (lambda r: r.weigh("m", {"v1": 1.5, "v2": -0.5}), 422),
    "a share that is none": (lambda r: r.weigh("m", {"v1": float("nan")}), 422),
    "unload the active one": (lambda r: r.unload("m", "v1"), 409),
    "unload no version": (lambda r: r.unload("m", "v9"), 404),
    "load what is there": (lambda r: r.load("m", "one", "v2"), 409),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_changes_nothing(case: str, registry: Registry) -> None:
    act, status = REFUSED[case]
    before = registry.model("m")
    with pytest.raises(Refused) as refused:
        act(registry)
    assert refused.value.status == status
    assert registry.model("m") is before


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a@b", "a b", ".x", "x" * 65, "é"])
def test_names_are_names(name: str, registry: Registry) -> None:
    with pytest.raises(BadConfigError):
        registry.load(name, "one")
    if name:
        with pytest.raises(BadConfigError):
            registry.load("m", "one", name)
    assert [model.name for model in registry.models()] == ["m"]


def test_a_version_that_fails_may_be_loaded_again(registry: Registry) -> None:
    version, future = registry.load("m", "bad")
    assert version == "v4"
    with pytest.raises(BadFileError):
        future.result()
    assert state(registry.model("m")) == "v1L v2l v3l v4f"
    with pytest.raises(Refused) as refused:
        registry.choose("m", "v4")
    assert refused.value.status == 409
    assert "secret" not in str(refused.value)
    registry.load("m", "four", "v4")[1].result()
    assert registry.choose("m", "v4").fingerprint == "four"
    registry.unload("m", "v4")
    assert state(registry.model("m")) == "v1L v2l v3l"


def test_memory_is_bounded_and_what_is_in_use_stays(registry: Registry) -> None:
    registry.choose("m", "v2")
    registry.load("m", "four")[1].result()
    registry.load("n", "five")[1].result()
    assert (state(registry.model("m")), state(registry.model("n"))) == ("v1L v2l v3e v4l", "v1L")
    registry.activate("m", "v2")  # v1 is what a roll-back takes
    registry.weigh("m", {"v2": 0.5, "v4": 0.5})
    with pytest.raises(Refused) as refused:
        registry.load("m", "six")[1].result()
    assert refused.value.status == 507
    assert state(registry.model("m")) == "v1l v2L v3e v4l v5f"
    registry.weigh("m", {})
    with pytest.raises(Refused, match="was another model before"):
        registry.load("m", "changed", "v3")[1].result()
    registry.load("m", "three", "v3")[1].result()
    assert state(registry.model("m")) == "v1l v2L v3l v4e v5f"


def test_one_that_is_fixed_changes_nothing_and_brings_back_what_was_put_out(registry: Registry) -> None:
    registry.load("m", "four")[1].result()
    registry.load("n", "five")[1].result()
    assert state(registry.model("m")) == "v1L v2e v3l v4l"
    registry.fixed = True
    changes: list[Callable[[], object]] = [
        lambda: registry.load("m", "six"),
        lambda: registry.activate("m", "v3"),
        lambda: registry.roll_back("m"),
        lambda: registry.weigh("m", {}),
        lambda: registry.unload("m", "v3"),
        lambda: registry.forget("m"),
    ]
    for change in changes:
        with pytest.raises(Refused, match="run `loradar serve` again") as refused:
            change()
        assert refused.value.status == 409
    with pytest.raises(Refused, match="is being loaded") as refused:
        registry.choose("m", "v2")
    assert (refused.value.status, refused.value.retry_after) == (503, 1)
    ends = time.monotonic() + 10
    while state(registry.model("m")) != "v1L v2l v3e v4l" and time.monotonic() < ends:
        time.sleep(0.01)
    assert registry.choose("m", "v2").fingerprint == "two"
    assert registry.choose("m").fingerprint == "one"


def test_places_have_names() -> None:
    assert read_place("a@b=c=d") == ("a", "b", "c=d")
    assert read_place("x.safetensors:architecture=resnet18,num_classes=3")[2].startswith("x.safetensors:")
    assert read_place("hub:me/mine")[0] == "hub-me-mine"
    assert read_place("/")[0] == "model"


@pytest.mark.parametrize("batch_size", [1, 8])
def test_swaps_under_load_leave_every_answer_its_own_version_s(
    batch_size: int, places: dict[str, Path], opening: Opening, images: Tensor
) -> None:
    """Four threads ask; others activate, split, roll back, load and unload. Alone in its batch an answer has the very bits."""

    def open_place(place: str, name: str, version: str) -> Served:
        return open_served(place, opening, name=name, version=version)

    kinds = {"v1": "adapter", "v2": "other", "v3": "base", "v4": "guard"}
    registry, engine = Registry(open_place), Engine(batch_size=batch_size, queue=64)
    for version, kind in kinds.items():
        registry.load("m", str(places[kind]), version)[1].result()
    alone = {version: registry.choose("m", version) for version in kinds}
    expected = {
        (one.fingerprint, index): one.answer(image[None])[0].probabilities
        for one in alone.values()
        for index, image in enumerate(images)
    }
    for one, other in itertools.combinations(alone.values(), 2):  # a mixture could not pass for either
        apart = [
            (expected[one.fingerprint, i] - expected[other.fingerprint, i]).abs().max() for i in range(len(images))
        ]
        assert min(apart) > 20 * TOLERANCE, (one.kind, other.kind)
    seen, wrong, stop = Counter[str](), list[str](), threading.Event()

    def client(number: int) -> None:
        for turn in itertools.count(number):
            if stop.is_set():
                return
            picks = [(turn + step) % len(images) for step in range(3)]
            served = registry.choose("m")
            futures = engine.submit(served.answer, [images[index] for index in picks], timeout=30)
            for index, future in zip(picks, futures, strict=True):
                answer = future.result(30)
                right = expected[answer.fingerprint, index]
                same = torch.equal if batch_size == 1 else lambda a, b: torch.allclose(a, b, rtol=0, atol=TOLERANCE)
                names = answer.version.startswith("w") or alone[answer.version].fingerprint == answer.fingerprint
                if not (same(answer.probabilities, right) and names and answer.version == served.version):
                    wrong.append(f"{answer.version}, image {index}")
                seen[answer.version] += 1

    def swap() -> None:
        turn = 0
        while not wrong and (turn < 4 or sum(seen.values()) < 120):
            turn += 1
            for version in kinds:
                registry.activate("m", version)
            registry.weigh("m", dict.fromkeys(kinds, 0.25))
            registry.load("m", str(places["adapter"]), f"w{turn}")[1].result()
            registry.activate("m", f"w{turn}")
            registry.roll_back("m")
            registry.unload("m", f"w{turn}")
        stop.set()

    threads = [threading.Thread(target=client, args=(3 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        swap()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        engine.close()
        registry.close()
    assert wrong == []
    assert set(kinds) <= set(seen)
