"""The app: routes on a service, behind the door, with every error as one line of JSON."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from loradar.core.errors import BadConfigError, BadImagesError
from loradar.serve.auth import Keys
from loradar.serve.counting import counted
from loradar.serve.errors import Refused
from loradar.serve.limits import door
from loradar.serve.routes_admin import add_admin
from loradar.serve.routes_page import add_page
from loradar.serve.routes_predict import add_predict
from loradar.serve.routes_v2 import add_v2
from loradar.serve.service import Service


def create_app(service: Service, keys: Keys) -> FastAPI:
    """Makes the app. `service` is not closed with it."""
    app = FastAPI(title="loradar", openapi_url=None)
    add_predict(app, service)
    add_admin(app, service)
    add_v2(app, service)
    add_page(app, service, keys)
    app.add_exception_handler(Exception, _reply)
    for kind in (Refused, BadImagesError, BadConfigError, HTTPException, RequestValidationError, ClientDisconnect):
        app.add_exception_handler(kind, _reply)
    app.add_middleware(door, config=service.config, keys=keys, refuse=refusal)
    app.add_middleware(counted, metrics=service.metrics)
    return app


def refusal(error: Refused) -> JSONResponse:
    """The response that says why a request was declined."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status in (408, 413):  # no more of it is read
        headers["Connection"] = "close"
    return JSONResponse({"error": str(error)}, error.status, headers)


def _reply(request: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
    """One line for the client; what it must not see is for the log."""
    if isinstance(error, Refused):
        return refusal(error)
    if isinstance(error, RequestValidationError):
        return refusal(Refused(422, _first(error.errors())))
    if isinstance(error, HTTPException):
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)
    if isinstance(error, ClientDisconnect):  # for the log and the metrics: nobody reads it
        return refusal(Refused(499, "the client left before its request was whole"))
    if isinstance(error, BadImagesError | BadConfigError):
        return refusal(Refused(422, str(error)))
    return refusal(Refused(500, "the server failed at this; its log says why"))


def _first(errors: Any) -> str:
    first = errors[0]
    where = ".".join(map(str, first["loc"][1:]))  # the first is which part of the request
    return f"{where}: {first['msg']}" if where else str(first["msg"])
