"""Jobs as data: ids, what waits for what, records of attempts, and marks that are written last."""

from pathlib import Path

import pytest

from loradar.core.errors import BadDataError, BadFileError
from loradar.jobs import stages, tasks
from loradar.jobs.tasks import Task
from tests.cluster.runs import write


def named(file: Path, **changes: str) -> dict[str, Task]:
    return {task.name: task for task in tasks.plan(stages.resolve(file, changes=changes))}


def test_tasks_wait_for_those_whose_folders_they_name(tmp_path: Path) -> None:
    found = named(write(tmp_path, tmp_path / "run"))
    waits = {name: sorted(one.name for one in found.values() if one.id in task.needs) for name, task in found.items()}
    assert waits == {
        "base": [],
        "craft 0/3": ["base"],
        "craft 1/3": ["base"],
        "craft 2/3": ["base"],
        "craft": ["base", "craft 0/3", "craft 1/3", "craft 2/3"],
        "pool eps-2": ["base"],
        "pool eps-4": ["base"],
        "pool": ["base", "pool eps-2", "pool eps-4"],
    }


def test_an_id_is_what_decides_the_outcome(tmp_path: Path) -> None:
    file = write(tmp_path, tmp_path / "run")
    before = named(file)
    # elsewhere, with the work cut otherwise: the same
    moved = {name: task.id for name, task in named(file, out=str(tmp_path / "other"), **{"craft.cache": "x"}).items()}
    assert moved == {name: task.id for name, task in before.items()}
    # another base is another everything; another pool is another pool
    other = named(file, **{"base.seed": "1"})
    assert not {task.id for task in other.values()} & {task.id for task in before.values()}
    other = named(file, **{"pool.query": "3"})
    assert {name for name, task in other.items() if task.id != before[name].id} == {"pool eps-2", "pool eps-4", "pool"}


def test_another_base_in_the_same_folder_is_another_task(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    file = tmp_path / "audit.yaml"
    file.write_text(f"out: {tmp_path}/run\nstages: {{audit: {{base: '{base}', data: digits}}}}")
    ids = []
    for weights in (b"one", b"two", b"one"):
        (base / "model.safetensors").write_bytes(weights)
        ids.append(named(file)["audit"].id)
    assert ids[0] == ids[2] != ids[1]


def test_an_attempt_that_fails_is_told_and_leaves_no_mark(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(f"out: {tmp_path}/run\nstages: {{base: {{job: pretrain, data: '{tmp_path}/nothing'}}}}")
    (task,) = tasks.plan(stages.resolve(file))
    tasks.write_plan([task], tmp_path / "run")
    for count in (1, 2):
        with pytest.raises(BadDataError, match="nothing"):
            tasks.perform(task)
        tried = tasks.attempts(task)
        assert [one.outcome[:7] for one in tried] == ["failed:"] * count
        assert all(one.ended >= one.began for one in tried)
    assert not task.is_done
    (read,) = tasks.read_plan(tmp_path / "run")
    assert tasks.state_of(read, done=()) == "failed"
    with pytest.raises(BadFileError, match="holds no run of a file of stages"):
        tasks.read_plan(tmp_path)
