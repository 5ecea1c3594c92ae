"""One small model of each kind, on fresh weights for the built-in digits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from torch import Tensor

from loradar.adapters import Adapter, fingerprint, load, merge_weights
from loradar.data import fetch_all, load_source
from loradar.fewshot.classifier import FewShotClassifier
from loradar.guard.files import GuardRecord, GuardState, save_guard
from loradar.guard.policy import Policy
from loradar.models import load_base, new_base, save_base
from loradar.serve.app import create_app
from loradar.serve.auth import Keys
from loradar.serve.config import ServeConfig
from loradar.serve.models import Opening, Served, open_served
from loradar.serve.service import Service, open_service
from tests.guard import built as guards
from tests.guard import toys
from tests.serve.processes import Starter

KINDS = ("guard", "task", "adapter", "base")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose answers differ by image, and in which every block counts: fresh blocks are zero behind their last norm."""
    base = new_base(
        "timm:test_resnet", num_classes=10, input_size=(3, 32, 32), classes=[str(i) for i in range(10)], seed=1
    )
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in base.model.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=draws)
            if parameter.ndim == 2:
                parameter.normal_(0, 1, generator=draws)
    return save_base(tmp_path_factory.mktemp("bases") / "base", base)


@pytest.fixture(scope="session")
def places(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each kind, and `other`, another adapter on the same base."""
    work = tmp_path_factory.mktemp("serve")
    roa, fast, other = (guards.adapter(base_folder, work / "adapters", name) for name in ("roa", "fast", "other"))
    make_guard(base_folder, {"patch": load(roa), "noise": load(fast)}, work / "guard")
    x, y = fetch_all(load_source("digits", size=(32, 32)).train, 40)
    names = [f"digit {label}" for label in y.tolist()]
    task = FewShotClassifier(str(base_folder)).fit(x, names).save(work / "task")
    return {"guard": work / "guard", "task": task, "adapter": roa, "base": base_folder, "other": other}


def make_guard(base_folder: Path, adapters: dict[str, Adapter], folder: Path) -> Path:
    """A guard of `toys`' settings, with a response, on the digits' base."""
    base = load_base(str(base_folder))
    merged = {name: merge_weights(base.model, adapter) for name, adapter in adapters.items()}
    identifier, gate = toys.identifiers({"base": base.model, **merged})
    record = GuardRecord(
        settings=toys.settings(policy=Policy(responses={"patch": ("smooth",), "unknown": ("jpeg",)})),
        base=str(base_folder),
        base_fingerprint=fingerprint(base.model),
        attacks={"patch": "roa", "noise": "pgd:steps=3"},
        costs={"trunk": 0.4, "base": 0.6, "patch": 0.6, "noise": 0.6},
    )
    state = GuardState(record=record, base=base, adapters=adapters, identifier=identifier, gate=gate)
    return save_guard(state, folder)


@pytest.fixture(scope="session")
def opening(base_folder: Path) -> Opening:
    return Opening(base=str(base_folder), device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def served(places: dict[str, Path], opening: Opening) -> dict[str, Served]:
    """Each of `places`, opened as version v1 of its kind's name."""
    return {kind: open_served(str(place), opening, name=kind, version="v1") for kind, place in places.items()}


@pytest.fixture(scope="session")
def images() -> Tensor:
    """(12, 3, 32, 32): digits, and noise, which a guard does not take for clean."""
    x, _ = fetch_all(load_source("digits", size=(32, 32)).train, 8)
    return torch.cat([x, torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))]).mul(255).round() / 255


@pytest.fixture(scope="session")
def pictures(images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same images as files."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{index}.png" for index in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    return paths


@contextmanager
def running(places: dict[str, Path], kinds: Sequence[str], **settings: Any) -> Iterator[Service]:
    """A service of `kinds`, each under its own name; `settings` are further ones of ServeConfig."""
    models = [f"{kind}={places[kind]}" for kind in kinds]
    config = ServeConfig(models=models, base=str(places["base"]), device="cpu", precision="fp32", **settings)
    service = open_service(config)
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(service: Service) -> TestClient:
    """Asks the app of the module's own `service`, which has no keys."""
    return TestClient(create_app(service, Keys(roles={})), base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """Starts `loradar serve` in processes."""
    starter = Starter(tmp_path_factory.mktemp("processes"))
    yield starter
    starter.close()
