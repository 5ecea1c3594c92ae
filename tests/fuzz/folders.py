"""Doors of folders and files that loradar writes: adapters, guards, tasks, bases, checkpoints, runs, reports."""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from loradar.adapters import fingerprint, load, plug, save, verify
from loradar.core.config import Config, check_run_settings
from loradar.core.errors import LoradarError
from loradar.core.modules import unwrap
from loradar.fewshot.classifier import FewShotClassifier
from loradar.guard.guard import Guard
from loradar.jobs.config import HardenConfig
from loradar.models import Base, load_base, new_base, save_base
from loradar.report.files import read_report, to_json, write_report
from loradar.training.checkpoints import load_checkpoint, save_checkpoint
from loradar.training.driver import Validation, read_epochs
from tests.adapters import tiny
from tests.adapters.test_verify import reseal
from tests.fuzz.changes import Change, odd, of_folder, places, spoil
from tests.fuzz.doors import Door, held, require
from tests.guard import toys
from tests.report.conftest import guarding, hardening

ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "loradar.json")
X = tiny.images(2)


@cache
def valid() -> Path:
    """A folder with one of everything."""
    place = Path(tempfile.mkdtemp(prefix="loradar-fuzz-"))
    base = _model()
    adapter = tiny.trained(base, "layer3*.conv1")
    save(adapter, place / "adapter")
    tiny.as_peft_writes(save(adapter, place / "peft"))
    tiny.as_schema_2(save(adapter, place / "schema-2"))
    FewShotClassifier(base).fit(tiny.images(6), ["cat", "dog"] * 3).save(place / "task")
    small = new_base("timm:test_resnet", num_classes=4, input_size=(3, 32, 32), classes=list("abcd"), seed=1)
    save_base(place / "base", small)
    save_run(place / "run")
    write_report(hardening(), place / "report")
    write_report(guarding(), place / "guard-report")
    return place


@cache
def _guard() -> tuple[Path, Base]:
    return toys.saved(valid() / "guard")


@cache
def _model() -> nn.Module:
    return tiny.resnet()


@torch.no_grad()
def _logits(folder: Path) -> Tensor:
    logits: Tensor = plug(_model(), load(folder))(X)
    return logits


@cache
def _expected(kind: str) -> Tensor:
    return _logits(valid() / kind)


def adapter(given: tuple[str, Sequence[Change], tuple[str, Any] | None], place: Path) -> None:
    """An adapter of any kind; sometimes by one who knows the format, and whose record speaks for what he changed."""
    kind, changes, sealed = given
    spoiled = spoil(valid() / kind, place / "one", changes)
    if sealed is not None:
        _seal(spoiled.folder, *sealed)
    problems = verify(spoiled.folder, _model())
    try:
        logits = _logits(spoiled.folder)
    except LoradarError as error:
        require(problems == [str(error)], f"verify says {problems}, plug {error}")
        require(len(str(error)) < 2000 and "\n" not in str(error), f"no line: {str(error)[:300]!r}")
        raise
    require(problems == [], f"verify refuses what plug wears: {problems}")
    require(logits.shape == (2, 4), f"logits of shape {tuple(logits.shape)}")
    if kind == "adapter" and sealed is None and (spoiled.folder / "loradar.json").exists():
        require(torch.equal(logits, _expected(kind)), "the digest passes, the logits are others")
    elif (reference := _reference(spoiled.folder)) is not None:
        agree = torch.allclose(logits, reference, atol=1e-3, rtol=1e-3, equal_nan=True)
        require(agree or not bool(reference.isfinite().all()), "the logits are not those of W + scale B A")


def _seal(folder: Path, part: str, value: Any) -> None:
    try:
        reseal(folder, {part: value} if part != "delta" else {"deltas": {"layer3.0.conv1": value}})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # an earlier change left no record to seal


@torch.no_grad()
def _reference(folder: Path) -> Tensor | None:
    """Logits computed from the files alone, where their settings are the plain ones."""
    config = json.loads((folder / "adapter_config.json").read_bytes())
    if any(config.get(k) for k in ("rank_pattern", "alpha_pattern", "use_dora", "lora_bias")):
        return None
    if not (config.get("lora_alpha") and config.get("r")):  # ours are read from the record
        return None
    tensors = safetensors.torch.load((folder / "adapter_model.safetensors").read_bytes())
    named = {key.removeprefix("base_model.model.").replace(".base_layer.", "."): t for key, t in tensors.items()}
    weights = {key: t.float() if t.is_floating_point() else t for key, t in named.items() if ".lora_" not in key}
    own = unwrap(_model()).state_dict()
    for key, a in named.items():
        if not key.endswith(".lora_A.weight"):
            continue
        layer = key.removesuffix(".lora_A.weight")
        b = named[f"{layer}.lora_B.weight"]
        scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
        change = (b.float().flatten(1) @ a.float().flatten(1)) * scale
        weights[f"{layer}.weight"] = own[f"{layer}.weight"] + change.reshape(own[f"{layer}.weight"].shape)
    record = folder / "loradar.json"
    if record.exists() and any(
        one["scale"] != config["lora_alpha"] / config["r"] for one in json.loads(record.read_bytes())["deltas"].values()
    ):
        return None
    twin = tiny.resnet()
    unwrap(twin).load_state_dict({**own, **weights})
    logits: Tensor = twin(X)
    return logits


def guard(given: tuple[Sequence[Change], tuple[float, Any] | None], place: Path) -> None:
    changes, sealed = given
    folder = spoil(_guard()[0], place / "one", changes).folder
    resealed = False
    if sealed is not None:
        resealed = _seal_guard(folder, *sealed)
    opened = Guard.open(folder, base=_guard()[1], precision="fp32")
    with held():
        shares = opened.predict_proba(X)
    if resealed:
        require(shares.shape == (2, 4) and bool(shares.isfinite().all()), "shares of classes are not finite")
    else:
        require(torch.equal(shares, guard_shares()), "the digest passes, the answers are others")


def _seal_guard(folder: Path, place: float, value: Any) -> bool:
    from loradar.core.digests import digest_of
    from tests.fuzz.changes import edited

    try:
        record = json.loads((folder / "guard.json").read_bytes())
        edited(record["settings"], place, "set", value)
        record["digest"] = digest_of(record)
        (folder / "guard.json").write_text(json.dumps(record))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return True


@cache
def guard_shares() -> Tensor:
    """What the valid one answers."""
    return Guard.open(_guard()[0], base=_guard()[1], precision="fp32").predict_proba(X)


def task(given: tuple[Sequence[Change], tuple[str, Any] | None], place: Path) -> None:
    changes, sealed = given
    folder = spoil(valid() / "task", place / "one", changes).folder
    if sealed is not None:
        _seal(folder, *sealed)
    opened = FewShotClassifier.load(folder, base=_model())
    with held():
        shares, answers = opened.predict_proba(X), opened.predict(X)
    require(len(answers) == 2 and set(answers.tolist()) <= set(opened.classes_.tolist()), "answers are no classes")
    if sealed is None and (folder / "loradar.json").exists():
        require(torch.equal(shares, task_shares()), "the digest passes, the answers are others")


@cache
def task_shares() -> Tensor:
    """What the valid one answers."""
    shares: Tensor = FewShotClassifier.load(valid() / "task", base=_model()).predict_proba(X)
    return shares


def base(changes: Sequence[Change], place: Path) -> None:
    folder = spoil(valid() / "base", place / "one", changes).folder
    opened = load_base(str(folder))
    with held(), torch.no_grad():
        logits = opened.model(torch.rand(1, *opened.input_size))
        require(logits.shape == (1, opened.num_classes), f"logits of shape {tuple(logits.shape)}")
        again = load_base(str(save_base(place / "again", opened)))
    require(fingerprint(again.model) == fingerprint(opened.model), "saved and opened again it is another base")
    require(again.classes == opened.classes, "saved and opened again it has other classes")


def _parts() -> tuple[dict[str, Tensor], torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parameter = torch.linspace(0, 1, 6).reshape(2, 3).requires_grad_()
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    return {"weight": parameter, "steps": torch.tensor([3])}, optimizer, scheduler


def _trained() -> tuple[dict[str, Tensor], torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    state, optimizer, scheduler = _parts()
    for _ in range(3):
        state["weight"].grad = torch.full((2, 3), 0.5)
        optimizer.step()
        scheduler.step()
    return state, optimizer, scheduler


def save_run(folder: Path) -> None:
    """Writes what a run leaves: a checkpoint, the record of an epoch, and its settings."""
    state, optimizer, scheduler = _trained()
    save_checkpoint(
        folder / "checkpoint.safetensors", step=3, state=state, optimizer=optimizer, scheduler=scheduler, run="x"
    )
    Validation(folder=folder, measure=lambda: (7, 5, 9), save=lambda _: None).keep(0, 0.5)
    check_run_settings(_run_settings(folder))


def _run_settings(folder: Path) -> Config:
    return HardenConfig(base="runs/base", out=folder, epochs=2)


def checkpoint(folder: Path) -> None:
    """Resumes from the checkpoint in `folder`, which gives the state that was saved or is refused."""
    state, optimizer, scheduler = _parts()
    done = load_checkpoint(
        folder / "checkpoint.safetensors", state=state, optimizer=optimizer, scheduler=scheduler, run="x"
    )
    before, others, schedule = _trained()
    require(done == 3, f"it goes on behind step {done}, not 3")
    require(all(torch.equal(state[name], before[name]) for name in before), "the weights are others")
    require(repr(optimizer.state_dict()) == repr(others.state_dict()), "the optimiser's state is another")
    require(scheduler.state_dict() == schedule.state_dict(), "the schedule is another")


def _checkpoint(changes: Sequence[Change], place: Path) -> None:
    checkpoint(spoil(valid() / "run", place / "one", changes).folder)


def run(changes: Sequence[Change], place: Path) -> None:
    """The folder of a run that goes on: its settings, and the epochs that it kept."""
    folder = spoil(valid() / "run", place / "one", changes).folder
    check_run_settings(_run_settings(folder))
    (epoch,) = read_epochs(folder, 1)
    require((epoch.epoch, epoch.loss, epoch.clean, epoch.adversarial, epoch.total) == (0, 0.5, 7, 5, 9), str(epoch))


def report(given: tuple[str, Sequence[Change]], place: Path) -> None:
    name, changes = given
    folder = spoil(valid() / name, place / "one", changes).folder
    read = read_report(folder)
    with held():
        again = write_report(read, place / "again").parent
        require(to_json(read_report(again)) == to_json(read), "written and read again it is another report")


_record = st.tuples(st.sampled_from(["card", "delta", "schema", "tensors"]), odd)
_card = st.builds(
    lambda key, value: ("card", {key: value}),
    st.sampled_from(["classes", "modules_to_save", "head", "norm", "data", "name", "base_fingerprint", "rank"]),
    odd,
)
_delta = st.builds(
    lambda key, value: ("delta", {key: value}),
    st.sampled_from(["shape", "scale", "groups", "init_factors", "bias", "branch_equivalent"]),
    odd,
)
_sealed: st.SearchStrategy[Any] = st.none() | st.one_of(_record, _card, _delta)
_few = st.lists(st.nothing(), max_size=0)


def _some(*names: str) -> st.SearchStrategy[Any]:
    """Damage, or a change by one who seals it."""
    return st.tuples(of_folder(*names), st.none()) | st.tuples(_few, _sealed)


_Enter = Callable[[Any, Path], object]
DOORS: dict[str, Door] = {
    "adapter": Door(
        st.one_of(
            st.tuples(st.sampled_from(["adapter", "schema-2"]), of_folder(*ADAPTER), st.none()),
            st.tuples(st.sampled_from(["adapter", "schema-2"]), _few, _sealed),
        ),
        adapter,
    ),
    "adapter of PEFT": Door(st.tuples(st.just("peft"), of_folder(*ADAPTER[:2]), st.none()), adapter),
    "guard": Door(
        st.tuples(of_folder("guard.json", "guard.safetensors", *(f"adapters/patch/{n}" for n in ADAPTER)), st.none())
        | st.tuples(_few, st.tuples(places, odd)),
        guard,
    ),
    "few-shot task": Door(_some(*ADAPTER), task),
    "base": Door(of_folder("config.json", "config.json", "model.safetensors"), base),
    "checkpoint": Door(of_folder("checkpoint.safetensors"), _checkpoint, 4),
    "run folder": Door(of_folder("run.json", "000.json"), run, 4),
    "report": Door(st.tuples(st.sampled_from(["report", "guard-report"]), of_folder("report.json")), report),
}
