"""Where tasks run: in processes of this machine, on Ray, on Slurm. Queues are the engines' own."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import yaml

from loradar.cluster.config import RunFileConfig
from loradar.cluster.work import Work, end_with
from loradar.core.config import default_cache
from loradar.core.errors import BadConfigError
from loradar.core.files import sha256
from loradar.jobs.tasks import Task


class Handle(Protocol):
    """A task that was handed over. `result` is what `Work` returned; it raises where the task's process died."""

    def done(self) -> bool: ...
    def result(self) -> str: ...
    def cancel(self) -> object: ...


class Runner(Protocol):
    """Takes tasks that wait for nothing, in any number. `retries` is how often the driver hands one over again that died."""

    @property
    def retries(self) -> int: ...
    def submit(self, task: Task) -> Handle: ...


@contextmanager
def runner(config: RunFileConfig, out: Path) -> Iterator[Runner]:
    """The engine that `config` names; what it started ends with the block. Raises BadConfigError where it is not there."""
    work = Work(folder=Path.cwd(), out=out, threads=config.threads or 1)
    if config.store is not None:
        if out.is_absolute():
            raise BadConfigError(f"with a store, out is to be a relative path, the same on every machine; it is {out}")
        work = replace(work, folder=default_cache() / "runs" / sha256(config.store.encode())[:16], store=config.store)
    match config.on:
        case "processes":
            yield from _processes(config, work)
        case "ray":
            yield from _ray(config, work)
        case "slurm":
            yield _slurm(config, work, out)


class _Processes:
    def __init__(self, work: Work, workers: int, retries: int) -> None:
        self._work, self._workers, self.retries = work, workers, retries

    def executor(self) -> Any:
        from joblib.externals.loky import get_reusable_executor

        # a new one where the last broke with one of its processes
        return get_reusable_executor(
            max_workers=self._workers, timeout=None, initializer=end_with, initargs=(os.getpid(),)
        )

    def submit(self, task: Task) -> Handle:
        handle: Handle = self.executor().submit(self._work, task)
        return handle


def _processes(config: RunFileConfig, work: Work) -> Iterator[Runner]:
    own = _Processes(work, config.workers or os.cpu_count() or 1, config.retries)
    try:
        yield own
    finally:
        own.executor().shutdown(wait=True, kill_workers=True)


class _Ray:
    retries = 0  # Ray's own

    def __init__(self, remote: Any, work: Work) -> None:
        self._remote, self._work = remote, work

    def submit(self, task: Task) -> Handle:
        return _RayHandle(self._remote.remote(self._work, task))


class _RayHandle:
    def __init__(self, ref: Any) -> None:
        self._ref = ref
        self._future = ref.future()  # asked of ten thousand tasks at a time, this is free

    def done(self) -> bool:
        return bool(self._future.done())

    def result(self) -> str:
        return str(self._future.result())

    def cancel(self) -> None:
        import ray

        ray.cancel(self._ref, force=True)


def _ray(config: RunFileConfig, work: Work) -> Iterator[Runner]:
    try:
        import ray
    except ImportError:
        raise BadConfigError('this needs the package ray: pip install "loradar[ray]"') from None
    local: dict[str, Any] = {"include_dashboard": False}
    if config.workers is not None:
        local["num_cpus"] = config.workers * config.cpus
    try:
        ray.init(
            address=config.ray,
            namespace="loradar",
            log_to_driver=False,
            logging_level="error",
            **({} if config.ray else local),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadConfigError(f"Ray at {config.ray or 'this machine'} cannot be reached: {error}") from error
    asked: dict[str, Any] = {"num_cpus": config.cpus, "num_gpus": config.gpus, "max_retries": config.retries}
    if config.memory_gb is not None:
        asked["memory"] = int(config.memory_gb * 2**30)
    try:
        yield _Ray(ray.remote(_call).options(scheduling_strategy="SPREAD", **asked), work)
    finally:
        ray.shutdown()


def _call(work: Work, task: Task) -> str:
    return work(task)


class _Slurm:
    def __init__(self, executor: Any, work: Work, retries: int) -> None:
        self._executor, self._work, self.retries = executor, work, retries

    def submit(self, task: Task) -> Handle:
        handle: Handle = self._executor.submit(self._work, task)
        return handle


def _slurm(config: RunFileConfig, work: Work, out: Path) -> Runner:
    try:
        import submitit
    except ImportError:
        raise BadConfigError('this needs the package submitit: pip install "loradar[slurm]"') from None
    told: dict[str, Any] = {}
    for text in config.slurm:
        name, sign, value = text.partition("=")
        if not (sign and name):
            raise BadConfigError(f"slurm is {text!r}; expected NAME=VALUE, for example timeout_min=240")
        told[name] = yaml.safe_load(value)
    try:
        # on a machine without Slurm, submitit starts processes
        executor = submitit.AutoExecutor(folder=out / "tasks" / "slurm")
        executor.update_parameters(
            name="loradar",
            cpus_per_task=max(1, round(config.cpus)),
            gpus_per_node=round(config.gpus),
            **({} if config.memory_gb is None else {"mem_gb": config.memory_gb}),
            **told,
        )
    except (NameError, TypeError, ValueError, RuntimeError) as error:
        raise BadConfigError(f"Slurm refuses these settings: {' '.join(str(error).split())}") from error
    return _Slurm(executor, work, config.retries)
