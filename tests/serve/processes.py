"""`loradar serve` in processes of its own, forked from one that has everything imported: only the first start takes long."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

KEY, ADMIN = "0123456789abcdef-predict", "0123456789abcdef-admin"
_PARENT = """
import gc, json, os, sys
import timm, torch._dynamo, loradar.cli, loradar.serve.server, loradar.serve.service

loradar.serve.server.HEAD_SECONDS = 0.5  # impatient with those who do not send
gc.freeze()
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
    elif child := os.fork():
        print(child, flush=True)
    else:
        for number in (1, 2):
            os.dup2(os.open(f"{asked['log']}.{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["loradar", "serve", *asked["args"]]
        sys.exit(loradar.cli.main())
"""


class Starter:
    """Starts servers, each with its own logs below `folder`."""

    def __init__(self, folder: Path) -> None:
        keys = {"LORADAR_PREDICT_KEY": KEY, "LORADAR_ADMIN_KEY": ADMIN}
        self._folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | keys | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
        )

    def start(self, *args: object) -> "Server":
        self._count += 1
        log = self._folder / f"{self._count}"
        return Server(self, self.ask(args=list(map(str, args)), log=str(log)), log)

    def ask(self, **what: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


class Server:
    """A server that listens."""

    def __init__(self, starter: Starter, pid: int, log: Path) -> None:
        self._starter, self.pid, self._log = starter, pid, log
        ends = time.monotonic() + 60
        while not (found := re.search(r"serving at http://(\S+):(\d+) ", self.said)):
            assert time.monotonic() < ends, self.said
            time.sleep(0.02)
        self.host, self.port = found[1], int(found[2])
        self._code: int | None = None

    @property
    def said(self) -> str:
        """Its standard error so far."""
        file = Path(f"{self._log}.2")
        return file.read_text() if file.exists() else ""

    @property
    def printed(self) -> str:
        return Path(f"{self._log}.1").read_text()

    def ask(self, picture: bytes, key: str = KEY) -> httpx.Response:
        return httpx.post(
            f"http://{self.host}:{self.port}/v1/models/adapter/predict",
            content=picture,
            headers={"Content-Type": "image/png", "Authorization": f"Bearer {key}"},
            timeout=30,
            verify=False,  # it speaks plain HTTP, and certificates take long to read
        )

    def page(self) -> str:
        """Its metrics."""
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.get(f"http://{self.host}:{self.port}/metrics", headers=headers, verify=False).text

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=20)

    def wait(self) -> int:
        """Returns how the process ended."""
        if self._code is None:
            self._code = self._starter.ask(wait=self.pid)
        return self._code

    def kill(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
