"""The engine: batches, bounds, deadlines, failures, draining."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait

import pytest
import torch
from torch import Tensor

from loradar.core.errors import BadImagesError
from loradar.serve.engine import Engine
from loradar.serve.errors import Refused
from loradar.serve.models import Answer


class Gate:
    """Answers the mean of each image once it is opened, and remembers the batches."""

    def __init__(self, version: str = "v1") -> None:
        self.version, self.batches, self.begun, self.open = version, list[int](), threading.Event(), threading.Event()

    def ask(self, x: Tensor) -> list[Answer]:
        self.begun.set()
        assert self.open.wait(10)
        self.batches.append(len(x))
        if bool((x > 1).any()):
            raise BadImagesError("too bright")
        return [
            Answer(label=0, probabilities=image.mean()[None], model="m", version=self.version, fingerprint="f")
            for image in x
        ]


def image(value: float) -> Tensor:
    return torch.full((1, 2, 2), float(value))


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(batch_size=4, queue=8)
    yield engine
    engine.close()


@pytest.fixture
def gate(engine: Engine) -> Iterator[Gate]:
    """With one image begun, so that what comes next waits."""
    gate = Gate()
    engine.submit(gate.ask, [image(0)], timeout=10)
    assert gate.begun.wait(10)
    yield gate
    gate.open.set()


def test_what_waits_shares_batches_by_version(engine: Engine, gate: Gate) -> None:
    other = Gate("v2")
    other.open.set()
    values = [n / 10 for n in range(8)]
    futures = [engine.submit((other if n % 2 else gate).ask, [image(v)], timeout=10)[0] for n, v in enumerate(values)]
    gate.open.set()
    answers = [future.result(10) for future in futures]
    assert [float(answer.probabilities) for answer in answers] == pytest.approx(values)
    assert [answer.version for answer in answers] == ["v1", "v2"] * 4
    assert (gate.batches, other.batches) == ([1, 4], [4])


def test_a_full_queue_refuses_all_or_none(engine: Engine, gate: Gate) -> None:
    engine.submit(gate.ask, [image(0)] * 6, timeout=10)
    with pytest.raises(Refused) as refused:
        engine.submit(gate.ask, [image(0)] * 3, timeout=10)
    assert (refused.value.status, refused.value.retry_after) == (429, 1)
    assert engine.waiting == 6
    engine.submit(gate.ask, [image(0)] * 2, timeout=10)


def test_what_is_too_late_is_dropped_unrun(engine: Engine, gate: Gate) -> None:
    (late,) = engine.submit(gate.ask, [image(0)], timeout=0.01)
    (kept,) = engine.submit(gate.ask, [image(0)], timeout=10)
    (gone,) = engine.submit(gate.ask, [image(0)], timeout=10)
    assert gone.cancel()
    time.sleep(0.05)
    gate.open.set()
    assert kept.result(10).version == "v1"
    with pytest.raises(Refused) as refused:
        late.result(10)
    assert refused.value.status == 504
    assert gate.batches == [1, 1]


def test_a_bad_image_costs_no_other_its_answer(engine: Engine, gate: Gate) -> None:
    futures = engine.submit(gate.ask, [image(0.5), image(2), image(0.25)], timeout=10)
    gate.open.set()
    wait(futures, 10)
    assert [type(future.exception()) for future in futures] == [type(None), BadImagesError, type(None)]
    assert float(futures[2].result().probabilities) == 0.25


def test_answers_of_another_number_reach_nobody(engine: Engine) -> None:
    (future,) = engine.submit(lambda x: [], [image(0)], timeout=10)  # noqa: ARG005
    with pytest.raises(RuntimeError, match="0 answers for 1 images"):
        future.result(10)
    gate = Gate()
    gate.open.set()
    assert engine.submit(gate.ask, [image(1)], timeout=10)[0].result(10).version == "v1"


def test_closing_answers_what_was_taken(engine: Engine, gate: Gate) -> None:
    futures = engine.submit(gate.ask, [image(n / 8) for n in range(8)], timeout=10)
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.open.set()
    closing.join(10)
    with pytest.raises(Refused) as refused:
        engine.submit(gate.ask, [image(0)], timeout=10)
    assert refused.value.status == 503
    assert [float(future.result(0).probabilities) for future in futures] == [n / 8 for n in range(8)]
    engine.close()
