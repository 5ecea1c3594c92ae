"""Counts and logs every request: its route, how it ended, how long it took. What was sent is in no log."""

import logging
import time

from loradar.serve.asgi import App, Message, Receive, Scope, Send
from loradar.serve.metrics import Metrics

_LOG = logging.getLogger("loradar.serve")
_UNSEEN = ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/v1/models", "/v1/traffic")
"""Asked every few seconds by machines and by the page: counted, but not logged."""


def counted(app: App, *, metrics: Metrics) -> App:
    """Wraps an app. A request that reached no route is counted under the route "-", whatever address it had."""

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        state = scope.setdefault("state", {})
        try:
            await app(scope, receive, noting)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "-")
            metrics.requests.labels(route, str(status)).inc()
            metrics.seconds.labels(route).observe(seconds)
            if route not in _UNSEEN:
                fields = {"event": "request", "method": scope["method"], "route": route, "status": status}
                fields |= {"ms": round(1000 * seconds, 1), "caller": state.get("caller"), **state.get("about", {})}
                _LOG.info("request", extra={"fields": fields})

    return counting
