"""`loradar serve`."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from loradar.cli.flags import command
from loradar.cli.printing import Output, note
from loradar.core.errors import BadConfigError
from loradar.serve.config import ServeConfig

if TYPE_CHECKING:
    from loradar.serve.auth import Keys
    from loradar.serve.service import Service


def register(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @command(
        app,
        "serve",
        ServeConfig,
        positional="models",
        example="loradar serve digits=runs/guard --port 8000 --keys keys.txt --repository runs",
    )
    def _serve(config: ServeConfig) -> Output:
        """Serve guards, tasks, adapters and bases over HTTP, and swap their versions under load.

        Without keys it listens on this machine alone. Stop it with Ctrl-C or SIGTERM: what was taken is answered first.
        With --replicas several processes answer, on Ray; on a cluster (--ray) the command ends once they do, and the same
        command replaces them one after the other.
        """
        try:
            from loradar.serve import server
        except ImportError as error:
            raise BadConfigError(f'serving needs the package {error.name}: pip install "loradar[serve]"') from error
        from loradar.serve.auth import read_keys
        from loradar.serve.logs import log_to_stderr
        from loradar.serve.service import open_service

        keys = read_keys(config.keys)
        log_to_stderr()
        who = f"{len(keys.roles)} keys" if keys.roles else "no keys: this machine alone"
        if config.replicas is not None:
            return _replicated(config, keys, who)
        if config.ray is not None:
            raise BadConfigError(
                "ray is the address of a cluster; say how many processes are to answer there: --replicas N"
            )
        with server.bind(config, keys) as bound:
            service = open_service(config)
            for line in _lines(service):
                note(line)
            where = server.address_of(*bound.getsockname()[:2])
            server.serve(service, keys, bound, started=lambda: note(f"serving at {where} ({who}); stop with Ctrl-C"))
        return Output(text=["stopped: what was taken is answered"], data={"stopped": True})


def _replicated(config: ServeConfig, keys: "Keys", who: str) -> Output:
    """Serves in several processes: here until the command is stopped, or on a cluster, which serves on without it."""
    # Ray reads these when it is imported: each line of a log is an event, and nobody else on this machine is to run code in
    # what is started here
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    if config.ray is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        from loradar.serve import replicas
    except ImportError as error:
        raise BadConfigError(f'replicas need the package {error.name}: pip install "loradar[serve-ray]"') from error
    from loradar.serve import server
    from loradar.serve.service import open_service

    replicas.check(config)
    if config.ray is None:
        with server.bind(config, keys) as bound:
            port = bound.getsockname()[1]
    else:
        server.check_host(config, keys)
        port = config.port
    service = open_service(config)
    for line in _lines(service):
        note(line)
    fingerprints = replicas.fingerprints_of(service)
    service.close()
    with replicas.cluster(config) as address:
        replicas.deploy(config, keys, port, fingerprints)
        where = f"{server.address_of(config.host, port)} in {config.replicas} replicas"
        if config.ray is not None:
            return Output(text=[f"serving at {where} ({who})"], data={"serving": fingerprints})
        mode = os.environ["RAY_AUTH_MODE"]
        note(f"serving at {where} ({who}); update it with RAY_AUTH_MODE={mode} and --ray {address}, stop with Ctrl-C")
        replicas.wait()
    return Output(text=["stopped: what was taken is answered"], data={"stopped": True})


def _lines(service: "Service") -> Iterator[str]:
    """What is served, a line each."""
    for model in service.registry.models():
        for one in filter(None, (version.served for version in model.versions.values())):
            size, active = "x".join(map(str, one.input_size)), ", active" if one.version == model.active else ""
            yield (
                f"{one.name}@{one.version}: {one.kind}, {len(one.classes)} classes, images of {size}, "
                f"{one.size / 1e6:.1f} MB, fingerprint {one.fingerprint[:12]}{active}"
            )
