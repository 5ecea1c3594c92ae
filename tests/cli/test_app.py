"""The command line as a user meets it: real processes where exit codes and start-up count."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loradar import __version__

HARDEN = [
    *("--train", "24", "--validation", "8", "--max-test-images", "8", "--batch-size", "8", "--epochs", "8"),
    *("--attacks", "pgd:steps=1", "--no-baselines", "--no-flip", "--precision", "fp32", "--adaptive", "none"),
]


def loradar(*args: str | Path, wait: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "loradar", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=wait, check=False, env=environment)


def test_help_needs_no_torch() -> None:
    code = "import sys, loradar.cli.app; assert not {'torch', 'timm', 'datasets', 'matplotlib'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_names_every_command() -> None:
    shown = loradar("--help").stdout
    for name in (
        "demo",
        "pretrain",
        "harden",
        "audit",
        "inspect",
        "predict",
        "attacks",
        "adapters",
        "meta-tune",
        "few-shot",
    ):
        assert name in shown
    assert "--attack-target" in loradar("harden", "--help").stdout


@pytest.fixture(scope="module")
def trained(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("cli")
    done = loradar("harden", base_folder, *HARDEN, "--out", folder / "run", "--cache", folder / "cache")
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return folder


def test_a_killed_run_ends_with_the_same_bits(trained: Path, base_folder: Path, tmp_path: Path) -> None:
    command: list[str | Path] = [
        "harden",
        base_folder,
        *HARDEN,
        "--out",
        tmp_path / "run",
        "--cache",
        tmp_path / "cache",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "loradar", *map(str, command)], env=environment, stderr=subprocess.DEVNULL
    )
    work = tmp_path / "run" / "work" / "pgd-steps1" / "epochs"
    deadline = time.monotonic() + 100
    while not (work / "001.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "report.json").exists()
    done = loradar(*command)
    assert done.returncode == 0, done.stderr
    file = Path("run", "adapters", "pgd-steps1", "adapter_model.safetensors")
    assert (tmp_path / file).read_bytes() == (trained / file).read_bytes()


def test_a_tuned_model_becomes_an_adapter(base_folder: Path, tmp_path: Path) -> None:
    from loradar.core.modules import unwrap
    from loradar.models import load_base, save_base

    base = load_base(str(base_folder))
    unwrap(base.model).get_parameter("conv1.0.weight").data.add_(0.05)
    tuned = save_base(tmp_path / "tuned", base)
    done = loradar(
        *(
            "adapters",
            "factor",
            base_folder,
            tuned,
            "--rank",
            "1",
            "--data",
            "digits",
            "--out",
            tmp_path / "a",
            "--json",
        )
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["ranks"] == {"conv1.0": 1}
    assert said["error"] < 1e-3
    assert [row["model"] for row in said["rows"]] == ["base", "tuned", "adapter"]
    assert said["rows"][1]["correct"] == said["rows"][2]["correct"]
    assert loradar("adapters", "verify", tmp_path / "a", "--base", base_folder).returncode == 0


def test_adapters_list_show_verify(trained: Path, base_folder: Path) -> None:
    folder = trained / "run" / "adapters"
    assert "pgd-steps1" in loradar("adapters", "list", folder).stdout
    assert "PGD" in loradar("adapters", "show", folder / "pgd-steps1").stdout
    good = loradar("adapters", "verify", folder / "pgd-steps1", "--base", base_folder, "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["verified"] is True


def test_audit_prints_json_alone_and_progress_beside_it(trained: Path, base_folder: Path, tmp_path: Path) -> None:
    done = loradar(
        *("audit", base_folder, "--adapter", trained / "run" / "adapters" / "pgd-steps1", "--max-test-images", "8"),
        *(
            "--attacks",
            "pgd:steps=1",
            "--precision",
            "fp32",
            "--out",
            tmp_path,
            "--cache",
            tmp_path / "cache",
            "--json",
        ),
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["threat"] for row in rows} == {"clean", "transfer", "adaptive"}
    assert all(row["total"] == 8 for row in rows)
    assert "100 %" in done.stderr


def test_inspect_shows_what_the_targets_hit() -> None:
    base = "torchvision:resnet18:pretrained=false,num_classes=10"
    assert "20 layers" in loradar("inspect", base).stdout
    shown = loradar("inspect", base, "--target-modules", "auto", "--rank", "4").stdout
    assert "layer4.1.conv1" in shown
    assert "66,646 parameters" in shown


def test_version() -> None:
    done = loradar("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"loradar {__version__}\n", "")


BAD = {
    "no such base": (["audit", "resnet81"], "resnet81"),
    "an unknown attack": (["audit", "{base}", "--attacks", "pdg"], "did you mean 'pgd'"),
    "an unknown setting of a preset": (["audit", "{base}", "--attacks", "roa-quick:hight=3"], "did you mean 'height'"),
    "an unknown threat": (["audit", "{base}", "--threat", "adaptable"], "threat"),
    "an unknown target": (["harden", "{base}", "--target-modules", "layer5.0.conv1"], "did you mean 'layer"),
    "a rank above the limit": (["harden", "{base}", "--rank", "999"], "rank 999 exceeds"),
    "an empty split": (["harden", "{base}", "--train", "999999"], "999999 training images"),
    "an unknown config key": (["harden", "{base}", "--config", "{config}"], "did you mean 'epochs'"),
    "a number that is none": (["harden", "{base}", "--epochs", "ten"], "epochs is 'ten'"),
    "a number without an end": (["harden", "{base}", "--learning-rate", "inf"], "learning_rate is 'inf'"),
    "an unknown flag": (["harden", "{base}", "--epoch", "3"], "see `loradar harden --help`"),
    "a flag that takes no value": (["harden", "{base}", "--flip=maybe"], "does not take a value"),
    "an unknown command": (["hardn"], "Did you mean 'harden'"),
    "a word too many": (["audit", "{base}", "again"], "unexpected extra argument"),
    "a base over something else": (["pretrain", "--out", "{foreign}"], "exists and is not a base"),
    "no such data": (["audit", "{base}", "--data", "nowhere/at/all"], "nowhere/at/all"),
    "a pickle for a base": (["audit", "{pickle}:architecture=resnet18,num_classes=10"], "more than tensors"),
    "a model of another architecture": (
        [
            "adapters",
            "factor",
            "{base}",
            "resnet18-cifar:pretrained=false,num_classes=10",
            "--rank",
            "1",
            "--out",
            "{empty}",
        ],
        "of another architecture",
    ),
    "no rank to factor at": (
        ["adapters", "factor", "{base}", "{other}", "--out", "{empty}"],
        "expected one of the two",
    ),
    "no adapter": (["adapters", "verify", "{empty}", "--base", "{base}"], "adapter"),
    "a truncated adapter": (["adapters", "verify", "{short}", "--base", "{base}"], "truncated"),
    "a tampered adapter": (["adapters", "verify", "{flipped}", "--base", "{base}"], "changed"),
    "the wrong base": (["adapters", "verify", "{adapter}", "--base", "{other}"], "belongs to the base"),
    "nothing to list": (["adapters", "list", "{empty}"], "no adapter below"),
}


@pytest.fixture(scope="module")
def places(trained: Path, base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the bad commands below name."""
    import pickle
    import shutil

    from loradar.models import new_base, save_base

    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    (folder / "foreign").mkdir()
    (folder / "foreign" / "letter.txt").touch()
    (folder / "c.yaml").write_text("epoch: 3\n")
    (folder / "model.pt").write_bytes(pickle.dumps({"a": print}))
    adapter = trained / "run" / "adapters" / "pgd-steps1"
    for name in ("short", "flipped"):
        shutil.copytree(adapter, folder / name)
        file = folder / name / "adapter_model.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data[:-100] if name == "short" else data)
    other = save_base(folder / "other", new_base("timm:test_resnet", num_classes=10, input_size=(3, 32, 32), seed=2))
    paths = {"base": base_folder, "other": other, "adapter": adapter, "config": folder / "c.yaml"}
    return paths | {"pickle": folder / "model.pt"} | {n: folder / n for n in ("empty", "foreign", "short", "flipped")}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(
    case: str,
    places: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # in this process: so many starts of Python would take minutes; that exit codes reach the shell is shown below
    from loradar.cli import main

    args, says = BAD[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["loradar", *(arg.format(**places) for arg in args)])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_exit_2_reaches_the_shell(base_folder: Path) -> None:
    done = loradar("audit", base_folder, "--attacks", "pdg")
    assert done.returncode == 2
    assert done.stderr.strip() == "loradar: unknown attack 'pdg'; did you mean 'pgd'?"


def test_nothing_said_is_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from loradar.cli import main

    monkeypatch.setattr(sys, "argv", ["loradar", "adapters"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert "verify" in said.out
    assert "Example" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("command", "target", "says"),
    [
        (("adapters", "list"), "loradar.cli.show.listing", "Interrupted.\n"),
        (("demo",), "loradar.jobs.demo.demo", "Interrupted. Run the same command to resume.\n"),
        (("harden", "x"), "loradar.jobs.harden.resolve", "Interrupted. Run the same command to resume.\n"),
    ],
)
def test_an_interrupted_command_says_whether_it_resumes(
    command: tuple[str, ...],
    target: str,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from loradar.cli import main

    def stop(*_args: object, **_settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(target, stop)
    monkeypatch.setattr(sys, "argv", ["loradar", *command])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == says


def test_a_closed_pipe_is_no_news() -> None:
    command = f"{sys.executable} -m loradar attacks list --json | true"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "loradar", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (2, "loradar: No space left on device\n")
