"""Kills saves and commands, runs them again, and counts what went wrong.

`python -m tests.faults.kills --kills 200` prints a table.
"""

import argparse
import hashlib
import json
import random
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradar.core.errors import LoradarError
from loradar.core.temporaries import remove_abandoned
from tests.faults.saves import SAVES
from tests.faults.server import Server

COMMANDS = ("pretrain", "harden", "audit", "guard build", "meta-tune", "few-shot eval", "few-shot fit")
REPLACED = ("pretrain", "guard build", "few-shot fit")
"""Commands whose out folder is replaced as a whole."""
_UNFINISHED = re.compile(r"\..*(\.part|\.old|lease\.json)")


@dataclass
class Count:
    """Of one save or command: kills, and after how many of them something was wrong."""

    kills: int = 0
    wrong_bits: int = 0
    lost_folders: int = 0
    stale_files: int = 0
    errors: int = 0

    @property
    def wrong(self) -> int:
        return self.wrong_bits + self.lost_folders + self.stale_files + self.errors


def digests(folder: Path) -> dict[str, str]:
    """The hash of every file that has a meaning, by its path; JSON without dates, and digests over them."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.suffix in (".md", ".html") or _UNFINISHED.fullmatch(path.name):
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(_undated(json.loads(data))).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def _undated(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _undated(each) for key, each in value.items() if key not in ("created", "digest")}
    return [_undated(each) for each in value] if isinstance(value, list) else value


def unfinished(folder: Path) -> list[Path]:
    """Files and folders that only a run in progress has."""
    return [path for path in folder.rglob("*") if _UNFINISHED.fullmatch(path.name)]


def kill_save(server: Server, inputs: Path, work: str, folder: Path, *, can_exchange: bool) -> Count:
    """Kills a save before every call that changes the file system, over what was there."""
    save, count, case = SAVES[work], Count(), folder / "save"
    shutil.copytree(inputs, case)
    place = case / save.place
    old = digests(place)
    whole = server.do(work, case, can_exchange=can_exchange)
    assert not whole.error, whole
    new = digests(place)
    for number in range(1, whole.calls + 1):
        shutil.rmtree(place)
        shutil.copytree(inputs / save.place, place)
        ended = server.do(work, case, before_call=number, can_exchange=can_exchange)
        assert ended.killed, ended
        count.kills += 1
        try:
            save.read(place)
        except LoradarError:
            count.lost_folders += 1
        count.wrong_bits += digests(place) not in (old, new)
        remove_abandoned(case)
        count.stale_files += bool(unfinished(case))
    shutil.rmtree(case)
    return count


def kill_command(server: Server, folder: Path, work: str, kills: int, seed: int = 0) -> Count:
    """Kills a command `kills` times and runs it again; `folder` holds `inputs`.

    The moments are random, in turn among its file-system calls and in time, and every other two are over an earlier result.
    """
    draws, whole, case, count = random.Random(f"{work} {seed}"), folder / "whole", folder / "case", Count()
    ran = server.do(work, whole)
    assert not ran.error, ran
    expected = digests(whole / "out")
    for index in range(kills):
        over = index % 4 > 1 and work in REPLACED
        if over:
            shutil.copytree(whole / "out", case / "out")
        moment: dict[str, float] = (
            {"after_seconds": draws.uniform(0, ran.seconds)}
            if index % 2
            else {"before_call": draws.randint(1, ran.calls)}
        )
        ended = server.do(work, case, **moment)
        count.kills += ended.killed
        count.lost_folders += over and digests(case / "out") != expected
        again = server.do(work, case)
        count.errors += bool(again.error)
        count.wrong_bits += digests(case / "out") != expected
        count.stale_files += bool(unfinished(case))
        if again.error or unfinished(case) or digests(case / "out") != expected:
            print(work, moment, ended, again, unfinished(case)[:3], flush=True)  # noqa: T201
        shutil.rmtree(case)
    shutil.rmtree(whole)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills of commands, all together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[*SAVES, *COMMANDS], help="saves and commands")
    asked = parser.parse_args()
    commands = [work for work in asked.only if work not in SAVES]
    wrong = 0

    def row(name: str, *columns: object) -> None:
        print("{:<26}{:>7}{:>12}{:>14}{:>13}{:>8}".format(name, *columns), flush=True)  # noqa: T201

    with tempfile.TemporaryDirectory() as place:
        folder, server = Path(place), Server(everything=True)
        ready = server.do("inputs", folder / "inputs")
        assert not ready.error, ready
        row("", "kills", "wrong bits", "lost folders", "stale files", "errors")
        for work in asked.only:
            if work in SAVES:
                counts = {
                    f"{work}, {'exchange' if can else 'two renames'}": kill_save(
                        server, folder / "inputs", work, folder, can_exchange=can
                    )
                    for can in (True, False)
                }
            else:
                counts = {work: kill_command(server, folder, work, max(1, asked.kills // len(commands)), asked.seed)}
            for name, one in counts.items():
                row(name, one.kills, one.wrong_bits, one.lost_folders, one.stale_files, one.errors)
                wrong += one.wrong
        server.close()
    raise SystemExit(wrong > 0)


if __name__ == "__main__":
    main()
