"""The pools that the few-shot recipes are tested with: tuned once."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from loradar.fewshot.meta_tune import resolve, run
from tests.data.pictures import digits_folder
from tests.fewshot.made_pools import BASES, make_base, tuning


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pool of each kind of base, with every baseline; one for all workers, which no test changes."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "few-shot-pools"
    with FileLock(f"{folder}.lock"):
        if not (done := folder / "done").exists():
            _tune(folder)
            done.touch()
    return {kind: folder / f"pool-{kind}" for kind in BASES}


def _tune(folder: Path) -> None:
    still = "pgd:steps=2,loss=cross_entropy,random_start=false"
    attacks = {"vit": "pyramid:steps=2", "resnet": still, "stages": still}
    readings = {"vit": "raw", "resnet": "relative", "stages": "none"}
    for kind in BASES:
        config = tuning(
            make_base(folder, kind),
            folder / f"pool-{kind}",
            attack=attacks[kind],
            perturbation=readings[kind],
            kl="attacked-clean" if kind == "vit" else "clean-attacked",
            ablations=kind == "vit",
            objective="features" if kind == "stages" else "tasks",
            norm="owned" if kind == "stages" else "frozen",
            batch_size=8,
        )
        run(resolve(config))


@pytest.fixture(scope="session")
def support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("support"), classes=3, each=3)
