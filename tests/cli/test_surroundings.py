"""Whatever surrounds a command - odd values, other users, full disks - a failure is one line and exit code 2."""

import importlib
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from loradar.cli.app import main

LONG, DIGITS, NUL = "n" * 5000, "9" * 5000, "a\0b"
TINY = [
    *("--architecture", "timm:test_resnet", "--train", "8", "--validation", "4", "--max-test-images", "4"),
    *("--epochs", "1"),
]
_BOMB = "".join(
    f"&{name} [{','.join([f'*{before}'] * 9) if before else 'x'}], "
    for before, name in zip(["", *"abcdefgh"], "abcdefghi", strict=True)
)
BOMB = f"[{_BOMB}]"
MERGES = (
    "{"
    + "".join(
        f"{name}: &{name} {{<<: [{','.join([f'*{before}'] * 9)}]}}, " if before else f"{name}: &{name} {{k: v}}, "
        for before, name in zip(["", *"abcdefgh"], "abcdefghi", strict=True)
    )
    + "}"
)


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *command: str) -> str:
    """The one line that a command says."""
    monkeypatch.setattr(sys, "argv", ["loradar", *command])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    assert caught.value.code == 2, said
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert len(said.err) < 2100
    return said.err


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["pretrain", "--seed", DIGITS], "exceeded maximum size"),
        (["audit", "b", "--size", DIGITS], "HEIGHTxWIDTH"),
        (["audit", "b", "--device", "meta"], "device is 'meta'"),
        (["audit", "b", "--device", f"cuda:{DIGITS}"], "cuda:N"),
        (["harden", "b", "--max-bytes", f"{DIGITS}kB"], "expected bytes, kB"),
        (["few-shot", "eval", "--pool", "p", "--domain", "d=d", "--setting", f"{DIGITS}w1s"], "WAYwSHOTs"),
        (["few-shot", "eval", "--pool", "p", "--domain", "d=d", "--setting", "²w1s"], "WAYwSHOTs"),
        (["attacks", "show", NUL], "names no attack"),
        (["attacks", "show", f"pgd:steps={DIGITS}"], "is no one attack"),
        (["inspect", NUL], "null byte"),
        (["predict", NUL, "--base", "b"], "without NUL"),
        (["report", NUL], "null byte"),
        (["pretrain", "--config", NUL], "null byte"),
        (["guard", "watch", NUL], "null byte"),
        (["demo", "--out", NUL], "null byte"),
        (["audit", LONG], "name too long"),
        (["report", LONG], "name too long"),
        (["run", LONG], "name too long"),
        (["adapters", "list", LONG], "name too long"),
        (["adapters", "verify", LONG], "name too long"),
        (["pretrain", "--data", LONG], "name too long"),
        (["pretrain", "--out", LONG, *TINY], "name too long"),
        (["demo", "--out", LONG], "name too long"),
    ],
)
def test_odd_arguments_are_one_line(
    command: list[str],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, monkeypatch, *command).replace("File name", "name")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"stages: {{a: {{job: pretrain, data: {BOMB}}}}}", "more than 10,000 values"),
        (f"vars: {{v: {BOMB}}}\nstages: {{a: {{job: pretrain}}}}", "more than 10,000 values"),
        (f"vars: {MERGES}\nstages: {{a: {{job: pretrain}}}}", "more than 10,000 values"),
        ("stages: {a: &a {job: pretrain, data: *a}}", "more than 10,000 values"),
        ("vars: [1]\nstages: {a: {job: pretrain}}", "vars holds a list"),
        (f"stages: {{a: {{job: pretrain, seed: {DIGITS}}}}}", "4300 digits"),
    ],
)
def test_a_file_that_explodes_is_one_line(
    text: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(text)
    assert says in refused(capsys, monkeypatch, "run", str(tmp_path / "s.yaml"))


@pytest.mark.parametrize(("value", "says"), [(DIGITS, "4300 digits"), (BOMB, "10,000 values"), ("{", "YAML value")])
def test_a_set_value_that_cannot_be_read_is_one_line(
    value: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text("stages: {a: {job: pretrain}}")
    line = refused(capsys, monkeypatch, "run", str(tmp_path / "s.yaml"), "--set", f"a.seed={value}")
    assert "a.seed is" in line
    assert says in line


def _nobody() -> None:
    """Becomes a user without a home folder, and without an entry in the list of users."""
    os.environ.pop("HOME", None)
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(12345)
        os.setuid(12345)


def _tiny_disk() -> None:
    """Files may have a hundred bytes: less than a key has."""
    sys.dont_write_bytecode = True  # half a compiled module would stay, and no other process could import it
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
@pytest.mark.parametrize(
    ("command", "surround", "says"),
    [
        (["pretrain", "--out", "closed/x", *TINY], _nobody, "Permission denied"),
        (["adapters", "keygen", "open/key"], _tiny_disk, "File too large"),
        pytest.param(
            ["audit", "~/base"],
            _nobody,
            "home folder of ~/base is not known",
            marks=pytest.mark.skipif(os.getuid() != 0, reason="needs to change the user"),
        ),
    ],
    ids=["closed folder", "full disk", "no home"],
)
def test_other_surroundings_are_one_line(
    command: list[str],
    surround: Callable[[], None],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["loradar", *command])
    for name, mode in (("closed", 0o555), ("open", 0o777)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    for module in ("loradar.jobs.audit", "loradar.jobs.pretrain", "sklearn.datasets.data", "importlib.readers", "timm"):
        importlib.import_module(module)  # another user may not be able to read the interpreter's files
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        code = 1
        try:
            surround()
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 2, text
    assert text.count("\n") == 1
    assert says in text
