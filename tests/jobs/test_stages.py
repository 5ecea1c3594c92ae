"""A file of stages: settings checked before anything runs, folders handed on, finished stages left alone."""

import json
import shutil
from pathlib import Path

import pytest

from loradar.core.errors import BadConfigError
from loradar.jobs import stages, tasks

FILE = """
vars: {seed: 0, rate: 0.3}
out: OUT/run-${seed}
stages:
  base: {job: pretrain, architecture: "timm:test_resnet", data: digits, train: 32, validation: 8, max_test_images: 8,
         epochs: 1, batch_size: 16, learning_rate: "${rate}", flip: false, precision: fp32}
  audit: {job: audit, base: "${base}", data: digits, attacks: ["pgd:steps=1"], max_test_images: 8, threat: [adaptive],
          precision: fp32, cache: OUT/cache, seed: "${seed}", publish: kept}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(FILE.replace("OUT", str(tmp_path)))
    return path


def test_stages_run_in_order_and_only_once(file: Path, tmp_path: Path) -> None:
    assert tasks.run(stages.resolve(file)) == ("base", "audit")
    assert (tmp_path / "kept" / "report.json").exists()
    assert (tmp_path / "run-0" / "audit" / "report.html").exists()
    assert tasks.run(stages.resolve(file)) == ()
    with pytest.raises(BadConfigError, match="stage base is finished with epochs = 1, now 2"):
        tasks.run(stages.resolve(file, changes={"base.epochs": "2"}))
    shutil.rmtree(tmp_path / "run-0" / "audit")
    assert tasks.run(stages.resolve(file)) == ("audit",)
    assert (tmp_path / "run-0" / "audit" / "report.html").exists()


@pytest.mark.parametrize("named", ["${base}", "${base}/", "./${base}", "HERE/${base}", "stages:${base}", "${base}2"])
def test_a_stage_waits_for_the_folders_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    base = "{job: pretrain, architecture: 'timm:test_resnet', data: digits}"
    Path("f.yaml").write_text(
        f"out: run\nstages: {{base: {base}, base2: {base}, pool: {{job: meta-tune, base: '{named}', data: digits}}}}".replace(
            "HERE", str(tmp_path)
        )
    )
    base_task, second, pool = tasks.plan(stages.resolve(Path("f.yaml")), apart=False)
    assert pool.needs == ((second if named.endswith("2") else base_task).id,)


def test_variables_and_settings_can_be_changed(file: Path, tmp_path: Path) -> None:
    job = stages.resolve(file, changes={"seed": "3", "audit.attacks": "[fgsm]"}, only=["audit"])
    (stage,) = job.stages
    assert stage.out == tmp_path / "run-3" / "audit"
    assert (stage.config.seed, stage.config.attacks) == (3, ["fgsm"])  # type: ignore[attr-defined]
    assert stage.config.base == str(tmp_path / "run-3" / "base")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("job: audit", "job: audt", "stage audit has the job 'audt'; did you mean 'audit'"),
        ("epochs: 1", "epoch: 1", "stage base: unknown config key 'epoch'; did you mean 'epochs'"),
        ("epochs: 1", "epochs: 0", "stage base: epochs is 0"),
        ("${base}", "${bas}", "stage audit uses ${bas}; did you mean 'base'"),
        ("${base}", "$", "write $$ for a plain one"),
        ("stages:", "stage:", "unknown key 'stage'; did you mean 'stages'"),
        ("vars:", "stages: []\nvars:", "cannot be read|holds no stages"),
    ],
)
def test_mistakes_are_said_before_anything_runs(file: Path, tmp_path: Path, old: str, new: str, says: str) -> None:
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(BadConfigError) as error:
        stages.resolve(file)
    assert any(part in str(error.value) for part in says.split("|"))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_is_not_there_cannot_be_set(file: Path) -> None:
    with pytest.raises(BadConfigError, match=r"no 'base\.\.' to set|no 'sed' to set"):
        stages.resolve(file, changes={"sed": "1"})
    with pytest.raises(BadConfigError, match="has no stage 'adit'; did you mean 'audit'"):
        stages.resolve(file, only=["adit"])


EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").rglob("*.yaml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_experiment_is_a_file_of_stages(path: Path) -> None:
    assert stages.resolve(path).stages


def test_published_reports_name_no_place_of_a_machine() -> None:
    reports = sorted((Path(__file__).parents[2] / "experiments").rglob("report.json"))
    assert len(reports) > 8
    for path in reports:
        told = json.loads(path.read_text())
        places = [told["base"].get("spec", ""), *(str(value) for value in told["settings"].values())]
        assert not [place for place in places if Path(place.removeprefix("stages:")).is_absolute()], path


def test_there_are_experiments() -> None:
    assert len(EXPERIMENTS) > 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vars: [a]\nstages: {base: {job: pretrain}}", "vars holds a list"),
        ("stages: {base: {job: pretrain, 0.5: 1}}", "unknown config key '0.5'"),
        ("stages: {../base: {job: pretrain}}", "a stage is called '../base'"),
        (
            "stages: {tasks: {job: pretrain}}",
            "stage tasks would fill runs/stages/tasks, the folder of the record of the run",
        ),
        (
            "stages: {a: {job: pretrain, out: x}, b: {job: pretrain, out: ./x}}",
            "stage b would fill x, the folder of stage a",
        ),
    ],
)
def test_odd_tables_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "stages.yaml").write_text(text)
    with pytest.raises(BadConfigError, match=message):
        stages.resolve(tmp_path / "stages.yaml")
