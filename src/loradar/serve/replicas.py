"""The same server in several processes, on one machine or many: replicas of Ray Serve, updated one after the other."""

import contextlib
import functools
import logging
import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import ray
from fastapi import FastAPI
from ray import serve

from loradar.core.errors import BadConfigError
from loradar.serve.app import create_app
from loradar.serve.auth import Keys
from loradar.serve.config import ServeConfig, bounds_of
from loradar.serve.logs import log_to_stderr
from loradar.serve.names import read_place
from loradar.serve.server import settle
from loradar.serve.service import Service, open_service
from loradar.serve.shared import BoardSettings, FollowedBoard, Sightings, States, Told, TrafficOfAll

NAME = "loradar"
"""Of the application, and of the actor that counts the traffic of all replicas, in the namespace of the same name."""
_SECONDS = 2.0
"""For the actor to answer a report."""
Fingerprints: TypeAlias = Mapping[str, str]
"""Of every NAME@VERSION."""


class Replica:
    """One process that answers: the service and the app of `loradar serve`, with a board that it shares.

    It serves the fingerprints that the command saw, or does not start.
    """

    def __init__(self, config: ServeConfig, keys: Keys, settings: BoardSettings, fingerprints: Fingerprints) -> None:
        log_to_stderr()
        self.keys, self.fingerprints = keys, fingerprints
        self.service = open_service(config)
        for name, fingerprint in fingerprints_of(self.service).items():
            if fingerprints[name] != fingerprint:
                raise BadConfigError(f"{name} is another model on this machine than where the command was run")
        self.service.registry.fixed = True
        self.service.metrics.labels["replica"] = serve.get_replica_context().replica_id.unique_id
        report = functools.partial(_report, settings)
        self.board = FollowedBoard(report, self.service.metrics.told, fixed=config.level)
        self.service.board = self.board
        settle()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self.service, self.keys)

    def serves(self) -> Fingerprints:
        """What it serves, for the next command."""
        return self.fingerprints

    def __del__(self) -> None:
        # Ray calls this once all that was taken is answered
        self.service.close()
        self.board.close()


def fingerprints_of(service: Service) -> dict[str, str]:
    """The fingerprint of every NAME@VERSION, loaded or evicted."""
    return {
        f"{model.name}@{key}": version.fingerprint
        for model in service.registry.models()
        for key, version in model.versions.items()
    }


def check(config: ServeConfig) -> None:
    """Raises BadConfigError for what replicas cannot do."""
    if config.repository is not None:
        raise BadConfigError(
            "repository is for versions that one process loads; replicas are given others by the same command, run again"
        )
    if config.ray is not None and config.port == 0:
        raise BadConfigError("port is 0; on a cluster it is to be the same each time, so choose one")


@contextlib.contextmanager
def cluster(config: ServeConfig) -> Iterator[str]:
    """Connects to the cluster of `config`, or starts Ray here; yields its address. Ray that was started here is ended.

    Raises BadConfigError where there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": logging.WARNING, "namespace": NAME}
    try:
        if config.ray is not None:
            ray.init(config.ray, log_to_driver=False, **quiet)
        else:
            ray.init("local", include_dashboard=False, object_store_memory=2**27, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())
        raise BadConfigError(f"ray is {config.ray!r:.80}, and there is no such cluster: {line:.200}") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Ray's own handler would end this process at once, and what it started would be left
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield ray.get_runtime_context().gcs_address
    finally:
        if config.ray is None:
            with contextlib.suppress(Exception):
                serve.delete(NAME)  # waits until what was taken is answered
                serve.shutdown()
        ray.shutdown()


def deploy(config: ServeConfig, keys: Keys, port: int, fingerprints: Fingerprints) -> None:
    """Starts the replicas, or replaces those that run, each once its successor answers. Returns when all are replaced.

    Raises BadConfigError where they do not start; those from before then go on.
    """
    least, most = bounds_of(str(config.replicas))
    _check_versions(fingerprints)
    _check_address(config.host, port)
    settings = BoardSettings(since=time.time(), level=config.level, window=config.window, webhook=config.webhook)
    logs = {"log_level": "WARNING", "enable_access_log": False}
    together = config.max_connections
    ray.get(_actor().__ray_ready__.remote())
    serve.start(
        http_options={"host": config.host, "port": port, "request_timeout_s": config.timeout + 5},
        logging_config=logs,
    )
    replica = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        ray_actor_options=_resources(config, most),
        max_ongoing_requests=together,
        max_queued_requests=config.queue,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        graceful_shutdown_timeout_s=config.timeout + 10,
        max_constructor_retry_count=1,
        max_surge_percent=math.ceil(100 / least),
        logging_config=logs,
        **(
            {"num_replicas": least}
            if least == most
            else {
                "autoscaling_config": {
                    "min_replicas": least,
                    "max_replicas": most,
                    "target_ongoing_requests": max(1, together // 2),
                }
            }
        ),
    )
    try:
        serve.run(replica.bind(absolute(config), keys, settings, fingerprints), name=NAME)
    except RuntimeError as error:
        said = serve.status().applications[NAME].deployments[NAME].message
        lines = [line.strip() for line in said.splitlines() if "Error: " in line] or [str(error)]
        raise BadConfigError(
            f"the replicas did not start, so none was replaced ({lines[-1]:.400}); run this again with what can be served"
        ) from error


def wait() -> None:
    """Waits for SIGTERM or SIGINT."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


def absolute(config: ServeConfig) -> ServeConfig:
    """The same settings for a process that runs in another folder."""
    models = []
    for given in config.models:
        name, version, place = read_place(given)
        models.append(f"{name}{'@' if version else ''}{version}={_absolute(place)}")
    base = None if config.base is None else _absolute(config.base)
    key = None if config.key is None else config.key.resolve()
    return config.model_copy(update={"models": models, "base": base, "key": key})


def _absolute(place: str) -> str:
    # what is no path here is the name of a base
    return str(Path(place).resolve()) if Path(place).exists() else place


def _report(settings: BoardSettings, sightings: Sightings) -> tuple[States, Told]:
    """Sends a report to the actor, which is started where there is none."""
    try:
        answer: tuple[States, Told] = ray.get(_actor().report.remote(settings, sightings), timeout=_SECONDS)
    except Exception:
        _actor.cache_clear()
        raise
    return answer


@functools.cache
def _actor() -> Any:
    # one whose machine is lost is started on another, and one that was killed for good by whoever asks for it next
    options = {"name": NAME, "namespace": NAME, "lifetime": "detached", "get_if_exists": True}
    return ray.remote(TrafficOfAll).options(**options, num_cpus=0, max_restarts=-1).remote(log_to_stderr)


def _check_versions(fingerprints: Fingerprints) -> None:
    """Raises BadConfigError where a version would become another model, so that its name says nothing any more."""
    there = serve.status().applications.get(NAME)
    if there is None or not there.deployments[NAME].replica_states.get("RUNNING"):
        return
    before = serve.get_app_handle(NAME).serves.remote().result(timeout_s=30)
    for name in sorted(before.keys() & fingerprints.keys()):
        if before[name] != fingerprints[name]:
            raise BadConfigError(
                f"{name} is served already and is another model; give this one another version: NAME@VERSION=PLACE"
            )


def _check_address(host: str, port: int) -> None:
    """Raises BadConfigError where Ray Serve listens elsewhere already, which it does until it is shut down."""
    from ray.serve.context import _get_global_client
    from ray.serve.exceptions import RayServeException

    try:
        there = _get_global_client().http_config
    except RayServeException:
        return
    if (there.host, there.port) != (host, port):
        raise BadConfigError(
            f"the cluster serves at {there.host} port {there.port}; give it --host {there.host} --port {there.port}, or end "
            "that with `serve shutdown`"
        )


def _resources(config: ServeConfig, most: int) -> dict[str, float]:
    """CPUs and GPUs of a replica: one of each where there are as many, else a share, so that one more has room in an update."""
    there = ray.cluster_resources()

    def share(kind: str) -> float:
        total = there.get(kind, 0.0)
        return 1.0 if total == 0 or total > most else 1 / math.ceil((most + 1) / total)

    wants_gpu = config.device.startswith("cuda") or (config.device == "auto" and there.get("GPU", 0) > 0)
    return {"num_cpus": share("CPU"), "num_gpus": share("GPU") if wants_gpu else 0.0}
