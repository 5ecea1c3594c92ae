"""`loradar guard` as a user meets it."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from loradar.cli import main
from loradar.cli.guard import _stream
from loradar.data import load_source
from loradar.guard.guard import Guard
from loradar.guard.traffic import open_traffic
from tests.guard import built as guards


@pytest.fixture(scope="module")
def work(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard-cli")
    for name in ("roa", "fast"):
        guards.adapter(base_folder, folder / "adapters", name)
    guards.build(base_folder, folder)
    (folder / "in").mkdir()
    x, _ = load_source("digits", size=(32, 32)).train.fetch(torch.arange(3))
    for i, image in enumerate(x):
        picture = Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy())
        picture.save(folder / "in" / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no picture at all")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    """The exit code of `loradar guard ARGS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["loradar", "guard", *map(str, args)])
    monkeypatch.setenv("COLUMNS", "220")
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_classify_prints_an_object_for_each_image(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [work / "in" / f"{i}.png" for i in range(3)]
    assert run(monkeypatch, "classify", *images, "--guard", work / "guard", "--level", "raised", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["image"] for one in found] == [str(path) for path in images]
    for one in found:
        assert one["answer"] in set("0123456789")
        assert set(one["voters"]) == {"base", "roa", "fast"}
        assert all(0 <= confidence <= 1 for _, confidence in one["voters"].values())
        assert one["suspected"] in ("clean", "roa-steps1-ncandidates2", "fast", "unknown")
        assert one["level"] == "raised"


def test_classify_shows_a_table(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "classify", work / "in" / "0.png", "--guard", work / "guard") == 0
    shown = capsys.readouterr().out
    for word in ("image", "answer", "base", "roa", "fast", "suspected", "defenses", "0.png"):
        assert word in shown


def test_watch_takes_what_is_there_and_logs_why(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arriving = tmp_path / "arriving"
    arriving.mkdir()
    for i in range(3):
        # images of noise, which is no traffic that the guard knows
        noise = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i))
        Image.fromarray((noise * 255).byte().permute(1, 2, 0).numpy()).save(arriving / f"{i}.png")
    (arriving / "broken.png").write_bytes(b"no picture at all")
    (arriving / "notes.txt").write_text("not an image")
    events = tmp_path / "events.jsonl"
    code = run(monkeypatch, "watch", arriving, "--guard", work / "guard", "--once", "--window", 3, "--events", events)
    assert code == 0
    said = capsys.readouterr()
    assert said.out.count("suspected unknown") == 3
    assert "skipped:" in said.err
    assert "broken.png cannot be read as an image" in said.err
    assert said.err.count("notes.txt is no picture by its name") == 1
    logged = [json.loads(line) for line in events.read_text().splitlines()]
    assert [event["kind"] for event in logged] == ["raised"]
    assert logged[0]["reason"] == "100% of the last 3 images suspected, which reaches 20%"
    assert "raised: 100%" in said.err


def test_watch_judges_a_file_again_when_it_changes(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (work / "in" / "0.png").read_bytes()
    # name -> what it holds at each look, and how many findings and notes that makes
    looks: dict[str, tuple[list[bytes], int, int]] = {
        "half.png": ([whole[: len(whole) // 2], whole, whole], 1, 1),
        "growing.png": ([b"", whole[:60], whole], 1, 2),
        "emptied.png": ([whole, b"", b""], 1, 1),
        "rewritten.png": ([whole, (work / "in" / "1.png").read_bytes(), whole], 3, 0),
        "broken.png": ([b"none"] * 3, 0, 1),
        "same.png": ([whole] * 3, 1, 0),
        "no_suffix": ([whole] * 3, 1, 0),
        "icon.ico": ([whole] * 3, 1, 0),
        "film.mp4": ([b"none"] * 3, 0, 1),
        "notes.txt": ([b"none"] * 3, 0, 1),
    }
    known: dict[str, bytes] = {}

    def write(look: int) -> None:
        for name, (contents, _, _) in looks.items():
            if known.get(name) != contents[look]:
                known[name] = contents[look]
                (tmp_path / name).write_bytes(contents[look])
                os.utime(tmp_path / name, (look, look))

    write(0)
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "none")
    (tmp_path / "folder.png").mkdir()
    traffic = open_traffic(Guard.open(work / "guard"))
    found: list[str] = []
    for look in range(3):
        write(look)
        # each round ends where a file that the round brings is found
        (tmp_path / f"~{look}.png").write_bytes(whole)
        if look == 0:
            stream = _stream(traffic, tmp_path, 0.01, once=False)
        for finding, _ in stream:
            found.append(Path(finding.image).name)
            if found[-1] == f"~{look}.png":
                break
    said = capsys.readouterr().err
    for name, (_, findings, notes) in looks.items():
        assert (found.count(name), said.count(name)) == (findings, notes), name
    assert said.count("nowhere.png") == 1
    assert "folder.png" not in found


BAD = {
    "an image that cannot be decoded": (["classify", "{work}/broken.png"], "cannot be read as an image"),
    "an image that is not there": (["classify", "{work}/none.png"], "could not read"),
    "a folder that is no guard": (["classify", "{work}/in/0.png", "--guard", "{work}/in"], "expected a guard's folder"),
    "a level that is none": (["watch", "{work}/in", "--level", "high"], "high"),
    "nothing to watch": (["watch", "{work}/nowhere"], "there is no folder"),
    "an unknown threat": (["build", "{base}", "--respond", "rao=mask", "--attacks", "roa"], "the threat 'rao'"),
    "a threat with a name that is taken": (["build", "{base}", "--attacks", "clean=pgd"], "these names are taken"),
    "a rectangle larger than the images": (
        ["build", "{base}", "--adapter", "{work}/adapters/roa", "--attacks", "roa", "--rectangle", "33"],
        "a rectangle of 33 pixels does not fit an image of 32",
    ),
    "a guard over something else": (["build", "{base}", "--out", "{work}/in"], "exists and is not a guard"),
    "a guard over a file": (["build", "{base}", "--out", "{work}/broken.png"], "exists and is not a guard"),
    "events that cannot be written": (["watch", "{work}/in", "--events", "{work}/no/events.jsonl"], "could not write"),
    "no image": (["classify"], "Missing argument 'IMAGES'"),
    "no adapter": (["build", "{base}", "--attacks", "roa"], "an adapter at least"),
    "an unknown fusion": (["build", "{base}", "--fusion", "vote"], "fusion is 'vote'"),
    "an audit of nothing": (["audit", "{work}/in"], "expected a guard's folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(
    case: str, work: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args, says = BAD[case]
    filled = [arg.format(work=work, base=base_folder) for arg in args]
    if filled[0] in ("classify", "watch") and "--guard" not in filled:
        filled += ["--guard", str(work / "guard")]
    assert run(monkeypatch, *filled) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err


def test_a_guard_s_help_teaches(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    for name in ("build", "audit", "classify", "watch"):
        assert name in shown
