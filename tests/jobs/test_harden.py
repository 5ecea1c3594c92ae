"""The main job in miniature: real digits, a real ResNet with fresh weights, every part in place."""

import json
import re
from pathlib import Path

import pytest
import torch

from loradar.adapters import load, plug, verify
from loradar.cli.show import next_commands
from loradar.core.errors import BadConfigError, BadDataError, BadFileError, BadTargetError, LoradarError
from loradar.core.modules import unwrap
from loradar.core.names import ADAPTER_WEIGHTS
from loradar.data import load_source
from loradar.evaluation.names import kind
from loradar.jobs import audit, harden
from loradar.jobs.config import AuditConfig, HardenConfig
from loradar.models import Base, load_base, new_base, open_base, save_base
from loradar.report.files import read_report
from loradar.training import distillation_loss

ATTACKS = ["roa:steps=2,n_candidates=3", "fast=pgd:steps=2"]


def first(setting: str) -> str:
    """The attack's name out of its spec."""
    return kind(setting)


def settings(base: Path, folder: Path, **changes: object) -> HardenConfig:
    values: dict[str, object] = {
        "base": str(base),
        "out": folder / "run",
        "cache": folder / "cache",
        "recipe": "transfer",
        "attacks": ATTACKS,
        "train": 32,
        "validation": 8,
        "max_test_images": 12,
        "batch_size": 16,
        "epochs": 2,
        "target_modules": ["block-conv1"],
        "flip": False,
        "precision": "fp32",
        "effort": "quick",
    }
    return HardenConfig(**values | changes)


@pytest.fixture(scope="module")
def run(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harden")
    with pytest.warns(UserWarning, match="never learns"):
        page = harden.run(
            harden.resolve(settings(base_folder, folder, literal=True, tensorboard=True, adaptive="all"))
        ).page
    assert page == folder / "run" / "report.html"
    return folder


def test_the_report_has_every_row_once(run: Path) -> None:
    report = json.loads((run / "run" / "report.json").read_text())
    assert report["schema"] == 2
    rows = [(r["model"], kind(r["trained_against"]), kind(r["attack"]), r["threat"]) for r in report["rows"]]
    assert len(set(rows)) == len(rows)
    for model, against in [("base", ""), ("roa-steps2-ncandidates3", "ROA"), ("fast", "PGD")]:
        for attack in ("ROA", "PGD"):
            assert {(model, against, attack, "transfer"), (model, against, attack, "adaptive")} <= set(rows)
    assert {("fc-only", "ROA", "ROA", "adaptive"), ("fc+norm", "PGD", "PGD", "transfer")} <= set(rows)
    assert ("fast-zeros", "PGD", "none", "clean") in rows
    assert {r["total"] for r in report["rows"]} == {12}


def test_the_report_carries_what_its_figures_need(run: Path) -> None:
    report = read_report(run / "run")
    assert report.data["splits"]["train"]["count"] == 32
    assert report.settings["computed_in"] == "float32"
    assert {leak.model for leak in report.leaks} == {"roa-steps2-ncandidates3", "fast"}
    assert set(report.baselines) >= {"fast-zeros", "fc-only", "fc+norm"}
    assert not {"base", "fast"} & set(report.baselines)
    assert report.training is not None
    assert {curve.model for curve in report.training.curves} >= {"fast", "fast-fc-only", "fast-fc+norm", "fast-zeros"}
    assert all(len(curve.points) == 2 for curve in report.training.curves)
    again = report.training.reload_checks
    assert all(check.differing == 0 and check.largest == 0.0 for check in again)
    assert len(again) == 8
    assert {picture.attack for picture in report.pictures} <= {row.attack for row in report.rows}
    assert all(picture.base_answer for picture in report.pictures)


def test_the_base_is_untouched_and_the_adapters_belong_to_it(run: Path, base_folder: Path) -> None:
    base = load_base(str(base_folder)).model
    for name in ("fast", "roa-steps2-ncandidates3", "fast-fc+norm"):
        assert verify(run / "run" / "adapters" / name, base) == []
    adapter = load(run / "run" / "adapters" / "fast")
    assert adapter.card.trained_against.startswith("pgd")
    assert adapter.card.data["base"] == str(base_folder)
    assert adapter.card.measured
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(plug(base, adapter)(x), base(x))


def test_the_literal_start_moves_the_head_alone(run: Path) -> None:
    adapter = load(run / "run" / "adapters" / "fast-zeros")
    assert all(not tensor.any() for delta in adapter.deltas.values() for tensor in (delta.a, delta.b))


def test_curves_for_tensorboard_are_there(run: Path) -> None:
    assert list((run / "run" / "tensorboard" / "fast").glob("events*"))


def test_a_second_run_trains_and_crafts_nothing(run: Path, base_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "cache").rglob("*.safetensors")}
    weights = (run / "run" / "adapters" / "fast" / "adapter_model.safetensors").read_bytes()
    job = harden.resolve(settings(base_folder, run, literal=True, tensorboard=True, adaptive="all"))
    with pytest.warns(UserWarning, match="never learns"):
        done = harden.run(job)
    assert f"--base {base_folder}" in next_commands(job.config, done)[-1]
    sized = job.config.model_copy(update={"size": (48, 40), "max_test_images": 12, "seed": 3})
    assert next_commands(sized, done)[0].endswith(f"--data {sized.data} --size 48x40 --max-test-images 12 --seed 3")
    assert {path: path.stat().st_mtime_ns for path in (run / "cache").rglob("*.safetensors")} == before
    assert (run / "run" / "adapters" / "fast" / "adapter_model.safetensors").read_bytes() == weights


def test_a_folder_of_another_run_is_refused(run: Path, base_folder: Path) -> None:
    with pytest.raises(BadConfigError, match=r"holds a run with .*choose another --out"):
        harden.run(harden.resolve(settings(base_folder, run, epochs=3)))


def test_defended_crafts_against_the_model_of_the_moment(base_folder: Path, tmp_path: Path) -> None:
    harden.run(
        harden.resolve(
            settings(
                base_folder,
                tmp_path,
                attacks=["fast=pgd:steps=1@defended"],
                baselines=False,
                adaptive="own",
                max_adaptive_images=6,
            )
        )
    )
    report = read_report(tmp_path / "run")
    assert [row.total for row in report.rows if row.model == "fast" and row.threat == "adaptive"] == [6]
    assert load(tmp_path / "run" / "adapters" / "fast").card.attack_target == "defended"


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"attacks": ["roa", "roa"]}, BadConfigError, "two attacks are called 'roa'"),
        ({"attacks": []}, BadConfigError, "no attack"),
        ({"attacks": ["pgd@defend"]}, BadConfigError, "expected 'base' or 'defended'"),
        ({"max_test_images": 100_000}, BadDataError, "100000 reported images asked for"),
        ({"target_modules": ["layer9.conv1"]}, BadTargetError, "did you mean"),
        ({"rank": 100}, BadTargetError, "rank 100 exceeds"),
        ({"device": "cuda:77"}, BadConfigError, "cannot be used here"),
    ],
)
def test_mistakes_are_said_before_the_long_work(
    base_folder: Path, tmp_path: Path, changes: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        harden.run(harden.resolve(settings(base_folder, tmp_path, **changes)))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_audit_measures_without_training(run: Path, base_folder: Path, tmp_path: Path) -> None:
    config = AuditConfig(
        base=str(base_folder),
        adapter=[run / "run" / "adapters" / "fast"],
        attacks=["pgd:steps=2", "noise"],
        max_test_images=12,
        out=tmp_path,
        cache=run / "cache",
        precision="fp32",
        effort="quick",
    )
    report = read_report(audit.run(audit.resolve(config)).page.parent)
    found = {(r.model, first(r.attack), r.threat): r.correct for r in report.rows}
    assert set(found) == {
        (model, *rest)
        for model in ("base", "fast")
        for rest in [("none", "clean"), *((a, t) for a in ("PGD", "UniformNoise") for t in ("transfer", "adaptive"))]
    }
    hardened = {(r.model, first(r.attack), r.threat): r.correct for r in read_report(run / "run").rows}
    assert found["fast", "PGD", "adaptive"] == hardened["fast", "PGD", "adaptive"]


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", new_base("timm:test_resnet", num_classes=3, input_size=(3, 32, 32)))
    with pytest.raises(BadConfigError, match="has 10 classes, the base 3"):
        audit.run(audit.resolve(AuditConfig(base=str(base), out=tmp_path / "out", cache=tmp_path / "cache")))


def test_another_order_of_classes_is_refused(tmp_path: Path) -> None:
    names = [*"1023456789"]
    base = save_base(
        tmp_path / "base", new_base("timm:test_resnet", num_classes=10, classes=names, input_size=(3, 32, 32))
    )
    with pytest.raises(BadConfigError, match="class 0 is '0' in digits and '1' in the base"):
        harden.run(harden.resolve(settings(base, tmp_path)))


def test_an_adapter_given_twice_is_refused(run: Path, base_folder: Path, tmp_path: Path) -> None:
    folder = run / "run" / "adapters" / "fast"
    with pytest.raises(BadConfigError, match="two models are called 'fast'"):
        audit.run(
            audit.resolve(AuditConfig(base=str(base_folder), adapter=[folder, folder], out=tmp_path, cache=tmp_path))
        )


@pytest.mark.parametrize("flag", ["out", "cache"])
def test_a_place_that_cannot_be_written_is_said_at_once(base_folder: Path, tmp_path: Path, flag: str) -> None:
    (tmp_path / "file").write_text("in the way")
    places = {"out": tmp_path / "out", "cache": tmp_path / "cache"} | {flag: tmp_path / "file" / "below"}
    with pytest.raises(BadFileError, match="could not"):
        audit.run(audit.resolve(AuditConfig(base=str(base_folder), attacks=["fgsm"], max_test_images=4, **places)))
    with pytest.raises(BadFileError, match="could not"):
        harden.run(harden.resolve(settings(base_folder, tmp_path, attacks=["fgsm"], **places)))


def test_audit_refuses_images_that_were_trained_on(run: Path, base_folder: Path, tmp_path: Path) -> None:
    config = AuditConfig(
        base=str(base_folder), adapter=[run / "run" / "adapters" / "fast"], max_test_images=13, out=tmp_path
    )
    with pytest.raises(BadDataError, match="trained on some of these images"):
        audit.run(audit.resolve(config))


def test_keeping_holds_the_clean_answers(base_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(base_folder)).model.eval()
    x = load_source("digits", size=(32, 32)).train.fetch(torch.arange(40))[0]
    distances = []
    for distill_weight in (0.0, 20.0):
        config = settings(
            base_folder,
            tmp_path / str(distill_weight),
            attacks=["fgsm"],
            distill_weight=distill_weight,
            learning_rate=0.02,
            adaptive="none",
            baselines=False,
        )
        harden.run(harden.resolve(config))
        with torch.no_grad():
            distances.append(
                float(distillation_loss(plug(base, load(config.out / "adapters" / "fgsm")).eval()(x), base(x)))
            )
    assert distances[1] < distances[0] / 2


@pytest.mark.parametrize(
    "changes",
    [{"weight_perturbation": 0.01}, {"objective": "trades"}, {"objective": "mart"}, {"label_smoothing": 0.1}, {}],
    ids=str,
)
def test_everything_that_an_adapter_owns_is_trained(
    base_folder: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    config = settings(
        base_folder, tmp_path, recipe="balanced", attacks=["pgd"], adaptive="none", baselines=False, rank=2, **changes
    )
    adapter = harden.run(harden.resolve(config))["pgd"]
    own = load_base(str(base_folder)).model.state_dict()
    for name, tensor in adapter.modules_to_save.items():
        assert not torch.equal(tensor, own[name if name in own else f"wrapped.{name}"]), f"{name} stayed"
    assert all(bool(delta.b.any()) for delta in adapter.deltas.values())


def _check_full_fine_tuning(config: HardenConfig, base: Base, rate: float) -> None:
    report = read_report(config.out)
    assert {row.attack for row in report.rows if row.model == f"full, rate {rate:g}"} == {"none", "pgd"}
    assert f"full, rate {rate:g}" in report.baselines
    assert report.training is not None
    assert ("pgd-full", 0) in [(check.model, check.differing) for check in report.training.reload_checks]
    full = load(config.out / "adapters" / "pgd-full")
    assert verify(config.out / "adapters" / "pgd-full", base.model) == []
    assert full.card.trained_against == "pgd"
    assert full.card.measured
    own = dict(unwrap(base.model).state_dict())
    assert full.modules_to_save.keys() == own.keys()
    assert not any(torch.equal(tensor, own[name]) for name, tensor in full.modules_to_save.items())
    sizes = {size.model: size.bytes for size in report.sizes}
    assert sizes["pgd-full"] > sizes["base"]


def test_a_budget_of_bytes_holds_for_what_is_written(base_folder: Path, tmp_path: Path) -> None:
    changes = {"recipe": "fast", "attacks": ["pgd"], "adaptive": "none", "baselines": False, "epochs": 1}
    config = settings(base_folder, tmp_path, **changes, max_bytes="60kB")
    ranks = harden.run(harden.resolve(config))["pgd"].ranks
    assert 0.98 * 60_000 <= (config.out / "adapters" / "pgd" / ADAPTER_WEIGHTS).stat().st_size <= 60_000
    assert len(ranks) == 4


@pytest.mark.parametrize(("recipe", "gains_move"), [("transfer", False), ("balanced", True)])
def test_the_baselines_own_what_the_adapters_do_or_everything(
    base_folder: Path, tmp_path: Path, recipe: str, gains_move: bool
) -> None:
    config = settings(base_folder, tmp_path, recipe=recipe, attacks=["pgd"], adaptive="none", rank=2, full=True)
    base = open_base(str(base_folder), "cpu")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    assert list(harden.run(harden.resolve(config, base=base))) == ["pgd"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    _check_full_fine_tuning(config, base, 4e-4 if recipe == "balanced" else 1e-4)
    baseline = load(config.out / "adapters" / "pgd-fc+norm")
    own = load_base(str(base_folder)).model.state_dict()
    gains = [n for n in baseline.modules_to_save if n.endswith("weight") and "bn" in n]
    assert gains
    moved = [not torch.equal(baseline.modules_to_save[n], own[n if n in own else f"wrapped.{n}"]) for n in gains]
    assert moved == [gains_move] * len(gains)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "mart", "clean_weight": 0.0}, "expected clean_weight above 0"),
        ({"warm_up": 2, "schedule": "cosine"}, "warm_up is 2 of 2 epochs"),
        ({"warm_up": 1, "schedule": "one-cycle"}, "with the cosine schedule"),
        ({"rank": 1000}, "rank 1000 exceeds"),
        (
            {"max_bytes": "1kB", "norm": "owned"},
            "max_bytes is 1000; rank 1 in 4 layers, with what is trained whole, takes",
        ),
    ],
)
def test_settings_that_do_not_fit_are_said_before_anything_long(
    base_folder: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(LoradarError, match=re.escape(said)):
        harden.resolve(settings(base_folder, tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_what_parts_take_is_told_from_a_few_images(base_folder: Path, tmp_path: Path) -> None:
    config = settings(base_folder, tmp_path)
    seconds = harden.estimate(harden.resolve(config))
    assert set(seconds) == {*harden.parts(config), ""}
    assert min(seconds.values()) > 0
    longer = harden.estimate(harden.resolve(settings(base_folder, tmp_path, epochs=200)))
    assert all(longer[name] > seconds[name] for name in harden.parts(config))
    assert not (tmp_path / "run").exists()
