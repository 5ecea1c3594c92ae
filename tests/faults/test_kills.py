"""Processes that are really killed; `make faults` kills more of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kills import kill_command, kill_save
from tests.faults.server import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def inputs(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "inputs"
    assert server.do("saved", folder).error == ""
    return folder


@pytest.mark.parametrize("can_exchange", [True, False], ids=["exchange", "two renames"])
def test_a_killed_save_leaves_the_old_or_the_new_folder(
    server: Server, inputs: Path, tmp_path: Path, can_exchange: bool
) -> None:
    count = kill_save(server, inputs, "save adapter", tmp_path, can_exchange=can_exchange)
    assert count.kills > 10
    assert count.wrong == 0


def test_a_killed_run_ends_with_the_same_bits_and_leaves_nothing(server: Server, inputs: Path) -> None:
    count = kill_command(server, inputs.parent, "pretrain", 3)
    assert count.wrong == 0
