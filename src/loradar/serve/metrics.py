"""What Prometheus may ask."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from loradar.guard.monitor import Event
from loradar.serve.engine import Engine
from loradar.serve.models import Answer, Served
from loradar.serve.registry import Registry
from loradar.serve.traffic import Board

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and gauges of one server. Labels are routes, models, versions and attacks: none comes from a client.

    `labels` are further ones, of every line.
    """

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        self._all = CollectorRegistry()
        self.requests = Counter(
            "loradar_requests", "Requests, by route and status.", ("route", "status"), registry=self._all
        )
        self.seconds = Histogram(
            "loradar_request_seconds", "Seconds of a request.", ("route",), registry=self._all, buckets=_SECONDS
        )
        self._images = Counter("loradar_images", "Images answered.", ("model", "version"), registry=self._all)
        self._batches = Histogram("loradar_batch_images", "Images of a batch.", registry=self._all, buckets=_SIZES)
        self._computing = Histogram(
            "loradar_batch_seconds",
            "Seconds that a batch was computed for.",
            ("model", "version"),
            registry=self._all,
            buckets=_SECONDS,
        )
        self._suspected = Counter(
            "loradar_suspected",
            "Images by the label of the guard's identifier.",
            ("model", "label"),
            registry=self._all,
        )
        self._events = Counter(
            "loradar_events", "Alarms raised and lowered, images defended.", ("model", "kind"), registry=self._all
        )
        self._waiting = Gauge("loradar_waiting_images", "Images that wait.", registry=self._all)
        self._level = Gauge("loradar_alarm_level", "1 where the level is raised.", ("model",), registry=self._all)
        self._share = Gauge(
            "loradar_suspected_share", "Share of the window that is not clean.", ("model",), registry=self._all
        )
        self._bytes = Gauge(
            "loradar_version_bytes", "Bytes of a loaded version.", ("model", "version"), registry=self._all
        )
        self._active = Gauge(
            "loradar_active",
            "1 for the active version of a model.",
            ("model", "version", "fingerprint"),
            registry=self._all,
        )

    def computed(self, served: Served, answers: Sequence[Answer], seconds: float) -> None:
        """Counts a batch that a version answered."""
        self._images.labels(served.name, served.version).inc(len(answers))
        self._batches.observe(len(answers))
        self._computing.labels(served.name, served.version).observe(seconds)
        for answer in answers:
            if answer.suspected is not None:
                self._suspected.labels(served.name, answer.suspected[0]).inc()

    def told(self, name: str, event: Event) -> None:
        """Counts an event of a model's traffic."""
        self._events.labels(name, event.kind).inc()

    def page(self, registry: Registry, engine: Engine, board: Board) -> bytes:
        """Returns the metrics of this moment, in Prometheus' text format."""
        self._waiting.set(engine.waiting)
        for state in board.states():
            self._level.labels(state["model"]).set(state["level"] == "raised")
            self._share.labels(state["model"]).set(state["suspected"])
        self._bytes.clear()
        self._active.clear()
        for model in registry.models():
            for version in model.versions.values():
                if version.served is not None:
                    self._bytes.labels(model.name, version.served.version).set(version.served.size)
                    if version.served.version == model.active:
                        self._active.labels(model.name, model.active, version.fingerprint).set(1)
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Yields every metric, as prometheus_client asks a registry for them."""
        for metric in self._all.collect():
            metric.samples = [sample._replace(labels=self.labels | sample.labels) for sample in metric.samples]
            yield metric
