"""Traffic sets the level of alarm; alarms are logged and posted; metrics and logs say what happened, and nothing else."""

import http.server
import json
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from starlette.testclient import TestClient

from loradar.serve.app import create_app
from loradar.serve.auth import Keys
from loradar.serve.config import ServeConfig
from loradar.serve.logs import JsonLines
from loradar.serve.models import Judgement, Served
from loradar.serve.registry import Registry
from loradar.serve.service import Service, assemble
from tests.serve.test_app import PNG, png

DEPLOY = Path(__file__).parents[2] / "deploy"


def suspicious(place: str, name: str, version: str) -> Served:
    """A guard to whom dark images are clean and all others a patch."""

    def judge(x: torch.Tensor, level: Any) -> list[Judgement]:
        return [
            Judgement(
                label=0,
                probabilities=torch.tensor([0.75, 0.25]),
                suspected=("clean" if image.mean() < 0.5 else "patch", 0.5),
                measures=("mask",) if level == "raised" else (),
                level=level,
            )
            for image in x
        ]

    return Served(
        name=name,
        version=version,
        kind="guard",
        fingerprint=place,
        classes=("a", "b"),
        input_size=(3, 4, 4),
        size=100,
        judge=judge,
    )


class Hook(http.server.BaseHTTPRequestHandler):
    """Fails at first, then keeps what it is sent."""

    seen: list[dict[str, Any]]
    failures: int

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = type(self)
        kind.failures -= 1
        self.send_response(500 if kind.failures >= 0 else 204)
        self.end_headers()
        if kind.failures < 0:
            kind.seen.append(json.loads(body))

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hook() -> Iterator[tuple[str, type[Hook]]]:
    kind = type("One", (Hook,), {"seen": [], "failures": 1})
    server = http.server.HTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/alarms", kind
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def service(hook: tuple[str, type[Hook]]) -> Iterator[Service]:
    config = ServeConfig(models=["g=one"], window=10, webhook=hook[0])
    service = assemble(config, Registry(suspicious))
    service.registry.load("g", "one")[1].result()
    yield service
    service.close()


def test_traffic_raises_and_lowers_the_level(
    service: Service, hook: tuple[str, type[Hook]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "loradar.serve")
    key = "0123456789abcdef"
    client = TestClient(create_app(service, Keys(roles={})), base_url="http://localhost")
    dark, light = (png(torch.full((3, 4, 4), value)) for value in (0.25, 1.0))

    def ask(body: bytes) -> str:
        headers = PNG | {"Authorization": f"Bearer {key}"}
        (found,) = client.post("/v1/models/g/predict?top=1", content=body, headers=headers).json()["predictions"]
        assert found["measures"] == (["mask"] if found["level"] == "raised" else [])
        return str(found["level"])

    assert [ask(dark) for _ in range(8)] == ["calm"] * 8
    assert [ask(light) for _ in range(4)] == ["calm", "calm", "raised", "raised"]
    assert client.get("/v1/traffic").json() == {
        "traffic": [
            {
                "model": "g",
                "level": "raised",
                "seen": 12,
                "window": 10,
                "suspected": 0.4,
                "counts": {"clean": 6, "patch": 4},
            }
        ]
    }
    page = client.get("/metrics").text
    for line in (
        'loradar_images_total{model="g",version="v1"} 12.0',
        'loradar_suspected_total{label="patch",model="g"} 4.0',
        'loradar_alarm_level{model="g"} 1.0',
        'loradar_suspected_share{model="g"} 0.4',
        'loradar_events_total{kind="raised",model="g"} 1.0',
        'loradar_events_total{kind="defended",model="g"} 2.0',
        'loradar_active{fingerprint="one",model="g",version="v1"} 1.0',
        'loradar_version_bytes{model="g",version="v1"} 100.0',
        'loradar_requests_total{route="/v1/models/{name}/predict",status="200"} 12.0',
        "loradar_waiting_images 0.0",
        "loradar_batch_images_count 12.0",
    ):
        assert line in page.splitlines()
    assert [ask(dark) for _ in range(11)] == ["raised"] * 10 + ["calm"]
    assert client.get("/nowhere/secret").status_code == 404
    assert client.post("/v1/models/g/inspect?secret=secret", content=dark, headers=PNG).status_code == 422
    service.close()  # posts what waits
    assert [seen["kind"] for seen in hook[1].seen] == ["lowered"]  # the first one failed
    assert hook[1].seen[0]["model"] == "g"
    assert hook[1].seen[0]["reason"] == "0% of the last 10 images suspected, which is down to 5%"

    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "loradar.serve"]
    alarms = [(line["severity"], line["kind"], line["level"]) for line in lines if line.get("event") == "alarm"]
    assert alarms == [("warning", "raised", "raised"), ("warning", "lowered", "calm")]
    assert "the webhook did not take an alarm: HTTPError" in [line["message"] for line in lines]
    asked = [line for line in lines if line.get("route") == "/v1/models/{name}/predict"]
    assert len(asked) == 23
    wanted = {"method": "POST", "status": 200, "caller": "local", "model": "g", "version": "v1", "images": 1}
    assert wanted.items() <= asked[0].items()
    assert not [line for line in lines if "secret" in str(line) or key in str(line)]
    assert [line["route"] for line in lines if line.get("status") == 404] == ["-"]


def test_a_fixed_level_stays() -> None:
    service = assemble(ServeConfig(models=["g=one"], window=2, level="raised"), Registry(suspicious))
    service.registry.load("g", "one")[1].result()
    client = TestClient(create_app(service, Keys(roles={})), base_url="http://localhost")
    body = png(torch.zeros(3, 4, 4))
    for _ in range(3):
        (found,) = client.post("/v1/models/g/predict", content=body, headers=PNG).json()["predictions"]
        assert found["level"] == "raised"
    service.close()


def test_a_webhook_is_an_address() -> None:
    with pytest.raises(ValueError, match="webhook"):
        ServeConfig(models=["x"], webhook=str(Path("/etc/passwd")))
    with pytest.raises(ValueError, match="webhook"):
        ServeConfig(models=["x"], webhook="file:///etc/passwd")


def test_what_is_logged_is_one_line_of_json() -> None:
    try:
        raise OSError("two\nlines")
    except OSError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "with\n%s", ("\x1b[31m",), (OSError, error, None))
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "with\n\x1b[31m"
    assert "two" in json.loads(line)["error"]


def test_the_dashboard_asks_for_metrics_that_there_are(service: Service) -> None:
    page = TestClient(create_app(service, Keys(roles={})), base_url="http://localhost").get("/metrics").text
    known = set(re.findall(r"^# TYPE (\w+)", page, flags=re.MULTILINE))
    panels = json.loads((DEPLOY / "grafana" / "loradar.json").read_text())["panels"]
    asked = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"loradar_\w+", target["expr"])
    }
    assert len(asked) > 8
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= known
    for name in ("compose.yaml", "prometheus.yml", "grafana/datasources.yml", "grafana/dashboards.yml"):
        assert yaml.safe_load((DEPLOY / name).read_text())
