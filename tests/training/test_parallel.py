"""Two processes that train together: the same steps as one, the same bits in both, and errors that reach the other one.

torchrun starts this very file, once; what its processes found is compared below.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loradar.core.errors import BadConfigError, LoradarError
from loradar.core.torchrun import Place, launched
from loradar.data import as_source
from loradar.jobs import harden
from loradar.jobs.config import HardenConfig
from loradar.models import Base
from loradar.training import ALONE, AWP, FitSettings, WeightAverage, World, fit, joined, perturbed_loss

COUNT, BATCH, SIDE = 11, 5, 6
CPU = torch.device("cpu")
SETTINGS = FitSettings(epochs=3, batch_size=BATCH, learning_rate=0.05, max_grad_norm=1.0)
X = torch.rand(COUNT, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
Y = torch.arange(COUNT) % 3


def network(*, norm: bool) -> nn.Sequential:
    between: list[nn.Module] = [nn.BatchNorm2d(4)] if norm else []
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *between, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 3))
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draws) / 4)
    return model


def gradients(world: World) -> list[Tensor]:
    """Those of one batch of five, which two processes cannot halve."""
    model = network(norm=False)
    own = world.slice_of(BATCH)
    F.cross_entropy(model(X[:BATCH][own]), Y[:BATCH][own]).backward()  # type: ignore[no-untyped-call]
    found = [p.grad for p in model.parameters() if p.grad is not None]
    world.average(found, batch=BATCH)
    return found


def trained(world: World, checkpoint: Path | None = None, *, norm: bool = True, stop: int = 0) -> dict[str, Tensor]:
    """The state after perturbed, averaged training; `stop` ends it after so many steps, as a kill would."""
    model = network(norm=norm)
    parameters = list(model.parameters())
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    average = WeightAverage(state, decay=0.9)

    def loss_of(indices: Tensor, seed: int) -> Tensor:  # noqa: ARG001
        own = indices[world.slice_of(len(indices))]
        mean = partial(world.average, batch=len(indices))
        return perturbed_loss(
            lambda: F.cross_entropy(model(X[own]), Y[own]), [parameters], AWP(gamma=0.1), average=mean
        )

    steps = fit(
        loss_of,
        parameters=parameters,
        state=state,
        count=COUNT,
        settings=SETTINGS,
        checkpoint=checkpoint,
        checkpoint_seconds=0.0,
        average=average,
        world=world,
        statistics=[tensor for name, tensor in state.items() if "running" in name],
    )
    last = [step.loss for step in itertools.islice(steps, stop or None)][-1]
    return {**state, **average.state, "loss": torch.tensor(last)}


def hardened(folder: Path) -> harden.HardenResult:
    draws = torch.Generator().manual_seed(2)
    images = {
        name: (torch.rand(16, 3, SIDE, SIDE, generator=draws), torch.arange(16) % 3) for name in ("train", "test")
    }
    config = HardenConfig(
        base="memory",
        data="memory",
        out=folder / "run",
        cache=folder / "cache",
        recipe="transfer",
        attacks=["pgd:steps=1"],
        target_modules=["all"],
        train=9,
        validation=4,
        max_test_images=4,
        batch_size=5,
        epochs=1,
        crop=1,
        norm="statistics",
        baselines=False,
        adaptive="none",
        precision="fp32",
    )
    base = Base.of(network(norm=True).eval(), mean=(0.5,) * 3, std=(0.5,) * 3, input_size=(3, SIDE, SIDE))
    return harden.run(harden.resolve(config, base=base, source=as_source(images)))


def bits(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def raised(work: Callable[[], object]) -> str:
    try:
        work()
    except LoradarError as error:
        return str(error)
    return ""


def fails(rank: int) -> None:
    with joined(CPU) as world:
        if world.rank == rank:
            raise BadConfigError(f"process {rank} cannot go on")
        world.wait()


def differs() -> None:
    with joined(CPU) as world:
        world.check_same("settings", [f"seed {world.rank}"])


def work(folder: Path) -> dict[str, Any]:
    """What each of the two processes finds."""
    with joined(CPU) as world:
        found: dict[str, Any] = {
            "rank": world.rank,
            "gradients": [gradient.tolist() for gradient in gradients(world)],
            "plain": {name: tensor.tolist() for name, tensor in trained(world, norm=False).items()},
            "runs": [bits(trained(world)) for _ in range(2)],
        }
        place = folder / "checkpoint.safetensors"
        trained(world, place, stop=4)
        found["resumed"] = bits(trained(world, place))
        found["too small"] = raised(lambda: list(_one_image(world)))
    found["differs"] = raised(differs)
    found["failures"] = [raised(partial(fails, rank)) for rank in range(2)]
    result = hardened(folder)
    found["hardened"] = {name: bits(adapter.state()) for name, adapter in result.adapters.items()}
    found["processes"] = result.report.settings["processes"]
    return found


def _one_image(world: World) -> Iterator[object]:
    parameter = nn.Parameter(torch.zeros(1))
    return fit(
        lambda indices, seed: parameter.sum(),  # noqa: ARG005
        parameters=[parameter],
        state={},
        count=1,
        settings=SETTINGS,
        world=world,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Sequence[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("parallel")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, folder], capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_the_mean_gradient_is_that_of_the_whole_batch(both: Sequence[dict[str, Any]]) -> None:
    for found in both:
        for mean, whole in zip(found["gradients"], gradients(ALONE), strict=True):
            torch.testing.assert_close(torch.tensor(mean), whole, rtol=0, atol=1e-6)


def test_two_processes_end_where_one_does(both: Sequence[dict[str, Any]]) -> None:
    """Perturbed weights, clipped gradients, the mean of the weights and the loss are all of the whole batch."""
    alone = trained(ALONE, norm=False)
    assert not torch.allclose(alone["3.weight"], network(norm=False).state_dict()["3.weight"], atol=1e-2)
    for name, tensor in both[1]["plain"].items():
        torch.testing.assert_close(torch.tensor(tensor), alone[name], rtol=0, atol=1e-4, check_dtype=False)


def test_both_have_the_same_bits_in_every_run(both: Sequence[dict[str, Any]]) -> None:
    assert len({run for found in both for run in found["runs"]}) == 1
    assert both[0]["runs"][0] != bits(trained(ALONE))  # statistics are those of the slices


def test_a_killed_run_goes_on_with_the_same_bits(both: Sequence[dict[str, Any]]) -> None:
    assert {found["resumed"] for found in both} == set(both[0]["runs"])


def test_harden_gives_both_the_same_adapter(both: Sequence[dict[str, Any]]) -> None:
    first, second = (found["hardened"] for found in both)
    assert first == second
    assert list(first) == ["pgd-steps1"]
    assert {found["processes"] for found in both} == {2}


def test_an_error_of_one_reaches_the_other(both: Sequence[dict[str, Any]]) -> None:
    for rank, found in enumerate(both):
        assert found["failures"][rank] == f"process {rank} cannot go on"
        assert found["failures"][1 - rank].startswith("another process of this run has ended")
        assert "settings differ between the first process and number 1" in found["differs"]
        assert "a batch has 1 images for 2 processes" in found["too small"]


def test_a_world_of_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined(CPU) as world:
        assert bits(trained(world)) == bits(trained(ALONE))
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [7, 8, 13])
def test_slices_are_the_whole_batch_in_order(size: int, count: int) -> None:
    slices = [World(rank=rank, size=size).slice_of(count) for rank in range(size)]
    assert [i for own in slices for i in range(count)[own]] == list(range(count))
    lengths = [own.stop - own.start for own in slices]
    assert max(lengths) - min(lengths) <= 1


def test_the_environment_says_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == Place(rank=3, local_rank=1, size=4)
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(BadConfigError, match="LOCAL_RANK=''; expected a number"):
        launched()


def test_other_commands_are_refused() -> None:
    environment = os.environ | {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    command = [sys.executable, "-m", "loradar", "audit", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("loradar: torchrun started 2 processes of `audit`")
    assert done.stderr.count("\n") == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    results = work(Path(sys.argv[1]))
    Path(sys.argv[1], f"{results['rank']}.json").write_text(json.dumps(results))
