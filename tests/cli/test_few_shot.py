"""The few-shot commands as a user meets them: from a tuned pool to answers, and one line for every mistake."""

import sys
from pathlib import Path

import pytest

from loradar.cli import main
from tests.data.pictures import digits_folder, png
from tests.data.tfrecords import example, write_records, write_spec


def loradar(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> None:
    # in this process: starts of Python take longer than the work; that exit codes reach the shell is shown elsewhere
    monkeypatch.setattr(sys, "argv", ["loradar", *map(str, args)])
    monkeypatch.setenv("COLUMNS", "200")
    main()


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("support"), classes=3, each=2)


@pytest.fixture(scope="module")
def pool(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of one member, tuned by the command itself."""
    out = tmp_path_factory.mktemp("pool") / "pool"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        loradar(
            patch,
            *("meta-tune", base_folder, "--data", "digits", "--out", out, "--images-per-class", "8"),
            *("--validation-classes", "4", "--validation-episodes", "1", "--setting", "3w1s", "--query", "1"),
            *("--eps-255", "8", "--rank", "1", "--epochs", "1", "--episodes", "1", "--warm-up", "0", "--no-baselines"),
            *("--precision", "fp32"),
        )
    assert stopped.value.code == 0
    return out


def test_from_a_folder_to_answers(
    pool: Path, support: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        loradar(
            monkeypatch,
            "few-shot",
            "fit",
            support,
            "--pool",
            pool,
            "--out",
            tmp_path / "task",
            "--score",
            "attacked",
        )
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "classes  digit0, digit1, digit2" in said
    assert "blend    eps-8 1.00" in said
    assert "images left out in turn" in said
    for step in ("choice", "blend", "trim", "head"):
        assert f"{step} " in said
    pictures = [tmp_path / "one.png", tmp_path / "other.png"]
    for label, picture in enumerate(pictures):
        picture.write_bytes((support / f"digit{label}" / "0.png").read_bytes())
    for flags in ([], ["--transductive"], ["--transductive", "--support", support]):
        with pytest.raises(SystemExit) as stopped:
            loradar(monkeypatch, "few-shot", "classify", tmp_path / "task", *pictures, *flags)
        assert stopped.value.code == 0
        assert [line.split()[1][:5] for line in capsys.readouterr().out.splitlines()[1:]] == ["digit", "digit"]


def test_eval_prints_the_averages(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        loradar(
            monkeypatch,
            *("few-shot", "eval", "--pool", pool, "--domain", "digits=digits", "--out", tmp_path, "--setting", "3w1s"),
            *("--query", "2", "--episodes", "2", "--attacked-episodes", "0", "--corrupted-episodes", "0"),
            *("--no-ablations", "--precision", "fp32"),
        )
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "no tuning" in said
    assert "report.html" in said
    assert (tmp_path / "report.json").exists()


BAD = {
    "fewer images than shots": (
        ["fit", "{support}", "--pool", "{pool}", "--shot", "3"],
        "has 2 images, 3 shots asked for",
    ),
    "no support": (["fit", "nowhere", "--pool", "{pool}"], "there is no data 'nowhere'"),
    "no pool": (["fit", "{support}", "--pool", "nowhere"], "nowhere holds no pool"),
    "no adapter": (["classify", "{support}", "x.png"], "adapter"),
    "no picture": (["classify", "{support}"], "Missing argument 'IMAGES'"),
    "a domain too small": (
        ["eval", "--pool", "{pool}", "--domain", "a={support}"],
        "5 classes a task asked for, 3 are there",
    ),
    "a class with no query": (
        ["eval", "--pool", "{pool}", "--domain", "a={support}", "--setting", "3w2s"],
        "needs 2 and one to ask about",
    ),
    "no converted data set": (
        ["eval", "--pool", "{pool}", "--domain", "a=meta-dataset:{support}:split=test"],
        "dataset_spec.json: No such file",
    ),
    "no corruption of that name": (
        ["eval", "--pool", "{pool}", "--domain", "a=cifar-c:{support}:corruption=fog,severity=3"],
        "holds no corruption such as fog.npy",
    ),
    "no domain": (["eval", "--pool", "{pool}"], "domain is missing"),
    "an unknown attack": (
        ["eval", "--pool", "{pool}", "--domain", "a=digits", "--attacks", "pdg"],
        "did you mean 'pgd'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(
    case: str,
    pool: Path,
    support: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args, says = BAD[case]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        loradar(monkeypatch, "few-shot", *(arg.format(pool=pool, support=support) for arg in args))
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not list(tmp_path.rglob("*"))


def test_unreadable_pictures_are_named(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "x.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stopped:
        loradar(monkeypatch, "few-shot", "fit", tmp_path / "images", "--pool", pool, "--out", tmp_path / "task")
    assert stopped.value.code == 2
    assert "x.png cannot be read as an image" in capsys.readouterr().err
    assert not (tmp_path / "task").exists()


def test_a_damaged_record_is_one_line_and_exit_2(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        write_records(tmp_path / f"aircraft/{number}.tfrecords", [example(png(k), number) for k in range(3)])
    spec = {"classes_per_split": {"TEST": 2}, "images_per_class": {"0": 3, "1": 3}, "class_names": {"0": "a", "1": "b"}}
    write_spec(tmp_path / "aircraft", spec | {"file_pattern": "{}.tfrecords"})
    data = bytearray((tmp_path / "aircraft/1.tfrecords").read_bytes())
    data[-30] ^= 1
    (tmp_path / "aircraft/1.tfrecords").write_bytes(data)
    source = f"meta-dataset:{tmp_path / 'aircraft'}:split=test"
    with pytest.raises(SystemExit) as stopped:
        loradar(monkeypatch, "few-shot", "fit", source, "--pool", pool, "--out", tmp_path / "task")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "aircraft/1.tfrecords, record 2 is damaged" in line
    assert not (tmp_path / "task").exists()
