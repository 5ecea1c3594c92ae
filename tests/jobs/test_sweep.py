"""A sweep in miniature: what is drawn, what is stopped, what a kill leaves, and what the report says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from loradar.adapters import verify
from loradar.core.config import validate
from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.leases import lease
from loradar.jobs import stages, sweep
from loradar.jobs.sweep_config import SweepConfig
from loradar.jobs.sweep_study import SharedStudy, sampled
from loradar.models import load_base
from loradar.report.files import read_report, write_pages

SETTINGS: dict[str, Any] = {
    "recipe": "fast",
    "attacks": ["weak=pgd:steps=1,eps=0.0001"],
    "target_modules": ["block-conv1"],
    "head": "new",
    "norm": "frozen",
    "train": 48,
    "validation": 40,
    "max_test_images": 8,
    "batch_size": 24,
    "epochs": 2,
    "average_decay": 0.0,
    "schedule": "constant",
    "flip": False,
    "adaptive": "none",
    "baselines": False,
}
SEARCH = {"learning_rate": [1e-4, 1.0, 2.0], "distill_weight": [0.0, 1e39]}
"""A rate that harms nothing and two that ruin the answers, a weight that float32 does not hold."""


def settings(base: object = "unread", out: object = "unwritten", **changes: Any) -> dict[str, Any]:
    values = {"search": SEARCH, "method": "grid", "trials": 4, "precision": "fp32", "settings": SETTINGS, "seed": 44}
    places = {"base": str(base), "out": str(out), "cache": f"{out}/cache"}
    return values | places | changes


def swept(base: Path, out: Path, **changes: Any) -> sweep.SweepResult:
    return sweep.run(sweep.resolve(validate(SweepConfig, settings(base, out, **changes))))


def figures(out: Path) -> dict[str, Any]:
    """A report without what a clock says, and without the place of the base that the sweep made."""
    values: dict[str, Any] = json.loads((out / "report.json").read_text())
    for trial in values["sweep"]["trials"]:
        del trial["seconds"]
    del values["created"], values["base"]["spec"]
    return values


@pytest.fixture(scope="module")
def done(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sweep") / "run"
    result = swept(base_folder, out)
    assert result.page == out / "report.html"
    assert result.settings == {"learning_rate": 1e-4, "distill_weight": 0.0}
    return out


def test_a_grid_is_covered_once_in_an_order_of_the_seed() -> None:
    search: dict[str, list[Any]] = {
        "rank": [2, "<=4"],
        "target_modules": [["all"], ["auto"]],
        "max_grad_norm": [0.0, 1, 2.5],
    }
    config = validate(SweepConfig, settings(search=search, trials=None, settings={"attacks": ["pgd"]}))
    drawn = sampled(config)
    assert len(drawn) == 12
    assert {json.dumps(one) for one in drawn} == {
        json.dumps({"rank": rank, "target_modules": layers, "max_grad_norm": norm})
        for rank in search["rank"]
        for layers in search["target_modules"]
        for norm in search["max_grad_norm"]
    }
    assert sampled(config) == drawn
    assert sampled(config.model_copy(update={"seed": 1})) != drawn
    assert sampled(config.model_copy(update={"trials": 5})) == drawn[:5]


def test_draws_follow_the_seed_and_stay_in_range() -> None:
    search = {
        "learning-rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "rank": {"low": 1, "high": 3},
        "distill_weight": {"low": 0, "high": 1},
    }
    config = validate(SweepConfig, settings(search=search, method="random", trials=40))
    drawn = sampled(config)
    assert sampled(config) == drawn != sampled(config.model_copy(update={"seed": 1}))
    rates = sorted(one["learning_rate"] for one in drawn)
    assert 1e-4 <= rates[0] < rates[39] <= 1e-2
    assert rates[10] < 1e-3 < rates[30], "the middle of the logarithm is far from the ends"
    assert {one["rank"] for one in drawn} == {1, 2, 3}
    assert len({one["distill_weight"] for one in drawn}) == 40, "a setting that is no whole number takes any between"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"search": {"lerning_rate": [1]}}, "unknown config key 'lerning_rate'; did you mean 'learning_rate'"),
        ({"search": {"learning_rate": [0.1, 0]}}, "learning_rate is 0; input should be greater than 0"),
        ({"search": {"learning_rate": {"low": -1, "high": 1}}, "method": "random"}, "learning_rate is -1"),
        ({"settings": {"attacks": ["pgd", "roa"]}}, "one attack and has 2 (pgd, roa)"),
        ({"settings": {"epochs": 2}}, "one attack and has 3 (roa, fia, pgd)"),
        ({"settings": SETTINGS | {"epoch": 1}}, "unknown config key 'epoch'; did you mean 'epochs'"),
        ({"settings": SETTINGS | {"seed": 1}}, "settings holds 'seed', which is a setting of the sweep itself"),
        ({"search": {"validation": [10, 20]}}, "search holds 'validation', which"),
        ({"search": {"epochs": [1, 2]}}, "epochs is in settings and in search"),
        ({"search": {"rank": [2, 2]}}, "search.rank holds 2 twice"),
        ({"search": {"rank": 2}}, "search.rank is 2; expected a list of values, or a range"),
        ({"search": {"rank": {"low": 2}}}, "search.rank: high is missing"),
        ({"search": {"rank": {"low": 2, "high": 1}}}, "search.rank: low is 2 and high 1"),
        ({"search": {"rank": {"low": 1, "high": 2}}}, "search.rank is a range; expected a list of values for a grid"),
        ({"search": {}}, "expected a setting of harden"),
        ({"search": {"rank": list(range(1, 200)), "gamma": list(range(1, 200))}}, "39,601 combinations"),
        ({"trial": 3}, "unknown config key 'trial'; did you mean 'trials'"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    values = settings(out=tmp_path / "out", **changes) | {"job": "sweep"}
    (tmp_path / "stages.yaml").write_text(json.dumps({"stages": {"tune": values}}))
    with pytest.raises(BadConfigError, match=re.escape(says)) as error:
        stages.resolve(tmp_path / "stages.yaml")
    assert str(error.value).startswith(f"{tmp_path / 'stages.yaml'}: stage tune: ")
    assert "\n" not in str(error.value)


def test_what_does_not_fit_the_base_is_said_before_any_trial(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank 1000 exceeds"):
        sweep.resolve(validate(SweepConfig, settings(base_folder, tmp_path / "out", search={"rank": [1, 1000]})))
    recipes = {"search": {"recipe": ["fast", "transfer"]}, "settings": {"attacks": ["pgd"]}}
    with pytest.raises(BadConfigError, match="attack_target base and defended"):
        sweep.resolve(validate(SweepConfig, settings(base_folder, tmp_path / "out", **recipes)))
    assert not (tmp_path / "out").exists()


def test_without_optuna_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(BadConfigError, match=re.escape('pip install "loradar[sweep]"')):
        validate(SweepConfig, settings())


def test_trials_that_are_behind_stop_early_and_the_best_is_hardened(done: Path) -> None:
    report = read_report(done)
    section = report.sweep
    assert section is not None
    assert [trial.state for trial in section.trials] == ["finished", "stopped", "failed", "stopped"]
    assert [trial.settings["learning_rate"] for trial in section.trials] == [1e-4, 2.0, 2.0, 1.0]
    for trial in section.trials:
        assert (len(trial.clean) == 2) == (trial.state == "finished")
        assert len(list((done / "trials" / f"{trial.number:03d}" / "epochs").glob("*.json"))) == len(trial.clean)
        assert section.score(trial) <= section.score(section.trials[section.best - 1]) or trial.state == "stopped"
    best = read_report(done / "best")
    assert best.rows == report.rows
    assert best.title == "Hardening report"
    assert best.settings["learning_rate"] == 1e-4
    assert best.training is not None
    selected = section.trials[section.best - 1]
    assert tuple(point.clean for point in best.training.curves[0].points) == selected.clean
    assert best.training.curves[0].selected == selected.selected
    assert best.training.reload_checks[0].largest == 0.0
    assert verify(done / "best" / "adapters" / "weak", load_base(str(done / "base")).model) == []


def test_the_report_has_every_trial_in_a_table_and_in_pictures(done: Path) -> None:
    before = (done / "report.html").read_bytes()
    assert write_pages(read_report(done), done).read_bytes() == before
    page, markdown = before.decode(), (done / "report.md").read_text()
    section = page.partition('id="sweep"')[2].partition("</section>")[0]
    assert section.count("<svg") == 2
    assert section.count('<th scope="row">') == 4
    for text in (section, markdown):
        for words in (
            "0.0001",
            "2 of 2",
            "1 of 2",
            "stopped",
            "the loss is nan at step",
            "best",
            "of 40",
            "seed 44",
            "optimistic",
        ):
            assert words in text.replace("\\", ""), words


def test_a_killed_sweep_ends_with_the_same_report(
    base_folder: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        reported: list[int] = []
        report = SharedStudy.report

        def dies(self: SharedStudy, number: int, epoch: int, score: float, seconds: float) -> None:
            report(self, number, epoch, score, seconds)
            reported.append(epoch)
            if len(reported) == 2:
                raise KeyboardInterrupt

        patch.setattr(SharedStudy, "report", dies)
        with pytest.raises(KeyboardInterrupt):
            swept(base_folder, out)
    with monkeypatch.context() as patch:  # between the answer that a trial is to stop, and its note

        def dies_at_a_stop(self: SharedStudy, number: int, score: float, *, stopped: bool) -> None:
            if stopped:
                raise KeyboardInterrupt
            finish(self, number, score, stopped=stopped)

        finish = SharedStudy.finish
        patch.setattr(SharedStudy, "finish", dies_at_a_stop)
        with pytest.raises(KeyboardInterrupt):
            swept(base_folder, out)
    swept(base_folder, out)
    assert figures(out) == figures(done)
    for name in ("best/adapters/weak/adapter_model.safetensors", "trials/001/epochs/000/adapter_model.safetensors"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


@pytest.mark.slow
def test_processes_share_trials_and_a_deleted_journal_costs_no_training(
    base_folder: Path, done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = validate(SweepConfig, settings(base_folder, out, workers=2))
    job = sweep.resolve(config)
    assert sweep.parts(config) == {"worker-0": (), "worker-1": ()}
    with pytest.raises(BadConfigError, match="no part 'pgd'"):
        sweep.run_part(job, "pgd")
    with lease(out / "trials" / "004"):  # as another process would
        sweep.run_part(job, "worker-0")
    assert not (out / "trials" / "004" / "epochs").exists()
    kept = {path: path.stat().st_mtime_ns for path in (out / "trials").glob("*/checkpoint.safetensors")}
    (out / "study.journal").unlink()
    sweep.run(job)
    assert figures(out) == figures(done)
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in kept}.items()


def test_a_damaged_journal_is_one_line(base_folder: Path, tmp_path: Path) -> None:
    job = sweep.resolve(validate(SweepConfig, settings(base_folder, tmp_path)))
    (tmp_path / "study.journal").write_text('{"op_code": 0}\n{"op\n\n')
    with pytest.raises(BadFileError, match="delete it to go on"):
        sweep.run(job)
