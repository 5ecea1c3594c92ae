"""Routes that change which versions there are and which of them answers. They take an admin's key."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from loradar.serve.replies import model_reply
from loradar.serve.service import Service


class _Load(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: str = Field(min_length=1, max_length=1000)
    version: str = ""


class _Version(BaseModel):
    model_config = ConfigDict(extra="forbid")
    version: str


def add_admin(app: FastAPI, service: Service) -> None:
    """Adds the routes. Loading is answered at once (202); the model then says whether the version is loaded or failed."""
    registry = service.registry

    @app.post("/v1/models/{name}/versions")
    def load(name: str, body: _Load) -> JSONResponse:
        version, _ = service.load(name, body.path, body.version)
        return JSONResponse({"model": name, "version": version, "state": "loading"}, 202)

    @app.post("/v1/models/{name}/activate")
    def activate(name: str, body: _Version) -> dict[str, Any]:
        return model_reply(registry.activate(name, body.version))

    @app.post("/v1/models/{name}/rollback")
    def rollback(name: str) -> dict[str, Any]:
        return model_reply(registry.roll_back(name))

    @app.put("/v1/models/{name}/weights")
    def weights(name: str, body: dict[str, float]) -> dict[str, Any]:
        return model_reply(registry.weigh(name, body))

    @app.delete("/v1/models/{name}/versions/{version}")
    def unload(name: str, version: str) -> dict[str, Any]:
        return model_reply(registry.unload(name, version))
