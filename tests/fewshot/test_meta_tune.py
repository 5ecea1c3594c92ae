"""Meta-tuning: members of one start that differ, every mistake said first, and a killed run that ends with the same bits."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from loradar.adapters import AdapterPool, add_weighted, load, merge_weights, verify
from loradar.attacks import PGD
from loradar.core.errors import LoradarError
from loradar.core.modules import unwrap
from loradar.data import load_source
from loradar.data.images import DecodedImages
from loradar.fewshot.config import MetaTuneConfig
from loradar.fewshot.heads import Centroids, TaskClassifier
from loradar.fewshot.meta_tune import resolve, run
from loradar.fewshot.pools import PoolModels, base_of, open_pool
from loradar.models import load_base
from loradar.training import read_epochs
from tests.fewshot.made_pools import BASES, tuning


def meta_tune(config: MetaTuneConfig) -> Path:
    return run(resolve(config)).folder


@pytest.mark.parametrize("kind", BASES)
def test_members_share_their_start_and_differ(runs: dict[str, Path], kind: str) -> None:
    pool = open_pool(runs[kind])
    base = load_base(base_of(runs[kind])).model
    assert list(pool) == ["eps-0.1", "eps-8"]
    for name in pool:
        assert verify(runs[kind] / "pool" / name, base) == []
    one, other = (pool[name].deltas for name in pool)
    # timm starts the last normalisation of a residual block at 0, so fresh convolutions below it get no gradient
    assert any(not torch.equal(one[layer].a, other[layer].a) for layer in one)
    if kind == "vit":
        assert {name.rpartition(".")[2]: delta.groups for name, delta in one.items()} == {
            "qkv": 3,
            "proj": 1,
            "fc1": 1,
            "fc2": 1,
        }
    assert pool["eps-8"].card.selected_epoch in (0, 1)
    assert len(read_epochs(runs[kind] / "work/eps-8/epochs", 2)) == 2
    clean = load(runs[kind] / "baselines" / "clean")
    assert not clean.deltas
    x = torch.rand(2, 3, 32, 32)
    assert not torch.equal(merge_weights(base, clean)(x), base(x))


ONE_CHANGE: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {
    "the head moves members alone": ({"head": "ridge"}, {"pool/eps-8": True, "baselines/clean": False}),
    "the clean rate moves clean tuning alone": (
        {"clean_learning_rate": 0.001},
        {"pool/eps-8": False, "baselines/clean": True},
    ),
}


@pytest.mark.parametrize("case", ONE_CHANGE)
def test_what_one_setting_moves(case: str, runs: dict[str, Path], tmp_path: Path) -> None:
    changes, moves = ONE_CHANGE[case]
    own_run = json.loads((runs["vit"] / "run.json").read_text())
    same = {name: own_run[name] for name in ("attack", "perturbation", "kl")}
    other = meta_tune(tuning(runs["vit"].parent / "vit", tmp_path, member=["eps-8", "clean"], **same | changes))
    for place, is_moved in moves.items():
        own, before = load(other / place).state(), load(runs["vit"] / place).state()
        assert any(not torch.equal(own[name], value) for name, value in before.items()) == is_moved
    assert load(other / "pool/eps-8").card.data["head"] == changes.get("head", "centroid")
    assert load(other / "baselines/clean").card.data["head"] == "centroid"


def by_features(runs: dict[str, Path], out: Path, kind: str = "resnet", **changes: object) -> MetaTuneConfig:
    """Settings of a member that learns to keep the base's features."""
    settings: dict[str, object] = {"preset": "quick", "batch_size": 8, "eps_255": [8], "precision": "fp32"}
    small = {
        "validation_classes": 4,
        "validation_episodes": 2,
        "setting": "3w1s",
        "query": 2,
        "epochs": 2,
        "episodes": 2,
    }
    return MetaTuneConfig(base=base_of(runs[kind]), data="digits", out=out, **settings | small | changes)


@pytest.mark.parametrize("kind", BASES)
def test_attacked_images_keep_the_features_that_the_base_has_of_them_clean(
    kind: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    job = resolve(by_features(runs, tmp_path, kind, episodes=20, learning_rate=0.01))
    member = run(job).members["eps-8"]
    first, last = read_epochs(tmp_path / "work/eps-8/epochs", 2)
    assert last.loss < first.loss
    assert member.card.norm == "owned"
    if kind != "vit":  # statistics of a base that was never trained are not those that its features have
        return
    before, after = job.features, merge_weights(job.features, member, check=False)
    x, _ = job.validation.images.fetch(torch.arange(40))
    with torch.no_grad():
        wanted = before(x)
    x_adv = PGD(eps=8 / 255, steps=5)(TaskClassifier(before, Centroids(wanted)), x, torch.arange(40))
    with torch.no_grad():
        kept, lost = (F.cosine_similarity(model(x_adv), wanted, dim=1).mean() for model in (after, before))
    assert kept > lost


def test_labels_do_not_matter_to_features(runs: dict[str, Path], tmp_path: Path) -> None:
    source = load_source("digits", size=(32, 32))
    assert isinstance(source.train, DecodedImages)
    flipped = dataclasses.replace(source.train, labels=source.train.labels.flip(0))
    relabelled = dataclasses.replace(source, splits={"train": lambda: flipped})
    found = [
        run(resolve(by_features(runs, tmp_path / name, epochs=1, warm_up=0), source=one, validation=source))
        for name, one in (("own", source), ("flipped", relabelled))
    ]
    own, others = (result.members["eps-8"].state() for result in found)
    assert all(torch.equal(own[name], others[name]) for name in own)


def test_members_with_statistics_of_their_own_are_blended_with_the_base(runs: dict[str, Path], tmp_path: Path) -> None:
    job = resolve(by_features(runs, tmp_path, learning_rate=0.05))
    member = run(job).members["eps-8"]
    models = PoolModels.of(job.base.model, AdapterPool({"one": member, "two": member}))
    blend = add_weighted(models.as_pool, {"base": 0.5, "one": 0.25, "two": 0.25})
    half, own = blend.state(), member.state()
    base = unwrap(job.base.model).state_dict()
    assert any(name.endswith("running_var") for name in member.modules_to_save)
    for name in member.modules_to_save:
        assert torch.allclose(half[name].float(), (base[name].float() + own[name].float()) / 2, atol=1e-6)
    merged = {
        name: unwrap(merge_weights(job.base.model, one)).state_dict()
        for name, one in (("half", blend), ("own", member))
    }
    for layer in member.deltas:
        mean = (base[f"{layer}.weight"] + merged["own"][f"{layer}.weight"]) / 2
        assert torch.allclose(merged["half"][f"{layer}.weight"], mean, atol=1e-5)


BAD_TUNING: dict[str, tuple[dict[str, Any], str]] = {
    "kl from a zero start": ({"attack": "pgd:random_start=false,loss=kl"}, "a zero start would never leave it"),
    "another attack": ({"attack": "roa"}, "expected fgsm, pgd or pyramid"),
    "a radius of its own": ({"attack": "pgd:eps=3"}, "which follows from --eps-255"),
    "a budget twice": ({"eps_255": [8, 8]}, "none of them twice"),
    "weights perturbed by none": ({"objective": "features", "perturbation": "raw"}, "features perturbs no weights"),
    "the same member twice": (
        {"objective": "features", "perturbation": "none", "ablations": True},
        "perturbs no weights",
    ),
    "an unknown member": ({"member": ["eps-9"]}, "did you mean 'eps-8'"),
    "too many classes": ({"setting": "9w1s"}, "9 classes a task asked for, 6 are there"),
    "too many shots": ({"setting": "3w12s"}, "a task of 12 shots"),
    "nothing to tune on": ({"validation_classes": 10}, "leave none to tune on"),
    "too long a warm-up": ({"warm_up": 2}, "warm_up is 2 of 2 epochs"),
}


@pytest.mark.parametrize("case", BAD_TUNING)
def test_mistakes_are_said_before_tuning(case: str, runs: dict[str, Path], tmp_path: Path) -> None:
    changes, says = BAD_TUNING[case]
    with pytest.raises(LoradarError, match=says):
        meta_tune(tuning(runs["vit"].parent / "vit", tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preset", ["paper", "quick"])
def test_a_killed_tuning_ends_with_the_same_bits(preset: str, runs: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from loradar.fewshot.meta_tune import resolve, run; "
        "from tests.fewshot.made_pools import tuning; "
        "run(resolve(tuning(Path(sys.argv[1]), Path(sys.argv[2]), preset=sys.argv[3], epochs=4, warm_up=0, member=['eps-8'], "
        "baselines=False)))"
    )
    base = runs["vit"].parent / "vit"
    command = [sys.executable, "-c", code, str(base), str(tmp_path / "killed"), preset]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 100
    while not (tmp_path / "killed" / "work" / "eps-8" / "epochs" / "001.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    settings = {"preset": preset, "epochs": 4, "warm_up": 0, "member": ["eps-8"], "baselines": False}
    files = []
    for name in ("killed", "whole"):
        place = meta_tune(tuning(base, tmp_path / name, **settings)) / "pool" / "eps-8"
        files.append((place / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["base"] == str(base)
