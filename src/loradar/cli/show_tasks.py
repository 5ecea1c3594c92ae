"""Tasks as tables: what a run comes to, and how far it is."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from loradar.cli.printing import Output, Rows
from loradar.cluster.work import At, read_progress
from loradar.core.timing import duration
from loradar.jobs.stages import StagesJob
from loradar.jobs.tasks import Attempt, Task, attempts, state_of


def planned(job: StagesJob, tasks: Sequence[Task], seconds: Mapping[str, float]) -> Output:
    """The tasks that are left, in an order in which they can be done; `seconds` are estimates, by id."""
    left = {task.id: task for task in tasks if not task.is_done}
    rows = [
        (
            task.name,
            task.job,
            ", ".join(left[one].name for one in task.needs if one in left) or "-",
            duration(max(1, seconds[name])) if name in seconds else "?",
        )
        for name, task in left.items()
    ]
    finished = [stage.name for stage in job.stages if stage.name not in {task.stage for task in left.values()}]
    text: list[Any] = [Rows(("task", "job", "waits for", "about"), rows)] if rows else []
    text += [f"finished: {', '.join(finished)}"] if finished else []
    if rows:
        least, all_of_it = (duration(max(1, each)) for each in (_longest(left, seconds), sum(seconds.values())))
        text.append(f"{len(left)} {'task' if len(left) == 1 else 'tasks'}, at most {_widest(left)} at one time")
        if seconds:
            text.append(
                f"about {all_of_it} one after the other, {least} with a worker for each"
                + (", without those marked ?, which cannot be told yet" if len(seconds) < len(left) else "")
            )
    data = [
        {
            "name": task.name,
            "job": task.job,
            "needs": list(task.needs),
            "id": name,
            "seconds": seconds.get(name),
            "settings": dict(task.settings),
        }
        for name, task in left.items()
    ]
    return Output(text=text, data={"tasks": data, "finished": finished})


def _longest(tasks: Mapping[str, Task], seconds: Mapping[str, float]) -> float:
    """Of the chains of tasks that wait for one another, the longest, in seconds."""
    ends: dict[str, float] = {}
    for name, task in tasks.items():
        ends[name] = seconds.get(name, 0.0) + max((ends[one] for one in task.needs if one in ends), default=0.0)
    return max(ends.values(), default=0.0)


def standing(tasks: Sequence[Task]) -> Output:
    """Every task of a run, and how far it is."""
    done = {task.id for task in tasks if task.is_done}
    rows, data = [], []
    for task in tasks:
        state, tried = state_of(task, done), attempts(task)
        at = read_progress(task) if state == "running" else None
        last = tried[-1] if tried else None
        rows.append((task.name, state, _where(last, at, state), str(len(tried)), _seconds(tried)))
        data.append({"name": task.name, "id": task.id, "state": state, "at": at, "attempts": tried})
    counts = {
        state: sum(one["state"] == state for one in data) for state in dict.fromkeys(one["state"] for one in data)
    }
    line = ", ".join(f"{count} {state}" for state, count in counts.items()) or "nothing was left to do"
    return Output(
        text=[Rows(("task", "state", "by whom, at what", "attempts", "time"), rows), line] if rows else [line],
        data=data,
    )


def _where(last: Attempt | None, at: At | None, state: str) -> str:
    if last is None:
        return ""
    if state in ("failed", "stopped"):
        return last.outcome
    who = f"process {last.process.pid} on {last.host}"
    if at is None:
        return who
    left = ""
    if 0 < at.done < at.total:
        left = f", {duration((time.time() - at.began) / at.done * (at.total - at.done))} left"
    return f"{who}: {at.name}, {100 * at.done // max(1, at.total)} %{left}"


def _seconds(tried: Sequence[Attempt]) -> str:
    total = sum((one.ended or time.time()) - one.began for one in tried if one.ended or one is tried[-1])
    return duration(total) if tried else ""


def _widest(tasks: Mapping[str, Task]) -> int:
    """The most tasks of one level: of those that wait for equally many, one behind the other."""
    levels: dict[str, int] = {}
    for name, task in tasks.items():
        levels[name] = 1 + max((levels[one] for one in task.needs if one in levels), default=0)
    found = list(levels.values())
    return max(map(found.count, found), default=0)
