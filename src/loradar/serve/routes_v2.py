"""The Open Inference Protocol, version 2, which clients of Triton, KServe and others speak."""

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from loradar import __version__
from loradar.serve.errors import Refused
from loradar.serve.service import Service
from loradar.serve.tensors import HEADER, inputs_of, outputs_of, read_images, read_request, write_reply

_STATES = {"loaded": "READY", "loading": "LOADING", "failed": "UNAVAILABLE", "evicted": "UNAVAILABLE"}


def add_v2(app: FastAPI, service: Service) -> None:
    """Adds the routes: health, metadata, inference, and the repository, of which a folder is loaded by its name."""
    registry = service.registry

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": service.is_ready}, 200 if service.is_ready else 503)

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        extensions = ["binary_tensor_data", "model_repository"]
        return {"name": "loradar", "version": __version__, "extensions": extensions}

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{version}")
    async def metadata(name: str, version: str = "") -> dict[str, Any]:
        served = registry.choose(name, version)
        return {
            "name": name,
            "versions": list(registry.model(name).versions),
            "platform": f"loradar_{served.kind}",
            "inputs": inputs_of(served),
            "outputs": outputs_of(served),
        }

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(name: str, version: str = "") -> dict[str, Any]:
        service.check_open()
        return {"name": name, "version": registry.choose(name, version).version, "ready": True}

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(name: str, request: Request, version: str = "") -> Response:
        service.check_open()
        if request.headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "the request is compressed; send it as it is")
        served = registry.choose(name, version)
        body, header = await request.body(), request.headers.get(HEADER)
        loop, most = asyncio.get_running_loop(), service.config.max_images

        def read() -> tuple[dict[str, Any], Any]:
            content, rest = read_request(body, header)
            return content, read_images(content, rest, served, most=most)

        content, images = await loop.run_in_executor(service.decoders, read)
        request.state.about = {"model": served.name, "version": served.version, "images": len(images)}
        answers = await service.answer(served, images, deadline=request.state.deadline)
        data, headers = write_reply(served, answers, content)
        return Response(data, headers=headers)

    @app.post("/v2/repository/index")
    async def index() -> list[dict[str, str]]:
        return [
            {"name": model.name, "version": key, "state": _STATES[version.state], "reason": ""}
            for model in registry.models()
            for key, version in model.versions.items()
        ]

    @app.post("/v2/repository/models/{name}/load")
    def load(name: str) -> dict[str, Any]:
        version, future = service.load(name, name)
        if (error := future.exception()) is not None:
            raise Refused(400, f"{name}@{version} could not be loaded; the server's log says why") from error
        registry.activate(name, version)
        return {}

    @app.post("/v2/repository/models/{name}/unload")
    def unload(name: str) -> dict[str, Any]:
        registry.forget(name)
        return {}
