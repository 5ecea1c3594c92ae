"""Routes that ask: health, models, predictions."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import UploadFile

from loradar.core.errors import did_you_mean
from loradar.serve.errors import Refused
from loradar.serve.models import Served
from loradar.serve.replies import answers_reply, model_reply
from loradar.serve.service import Service


def add_predict(app: FastAPI, service: Service) -> None:
    """Adds the routes that a predict key may ask, and health."""

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        ready = service.is_ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        page = service.metrics.page(service.registry, service.engine, service.board)
        return Response(page, media_type="text/plain; version=0.0.4")

    @app.get("/v1/traffic")
    async def traffic() -> dict[str, Any]:
        return {"traffic": service.board.states()}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"models": [model_reply(model) for model in service.registry.models()]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        return model_reply(service.registry.model(name))

    @app.post("/v1/models/{name}/predict", dependencies=[Depends(refuse_unknown)])
    async def predict(
        name: str,
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000)] = 1,
        voters: bool = False,
        pinned: Annotated[str, Header(alias="X-Loradar-Version")] = "",
    ) -> dict[str, Any]:
        service.check_open()
        served = choose(service, name, pinned)
        if voters and served.kind != "guard":
            kind = f"{'an' if served.kind == 'adapter' else 'a'} {served.kind}"
            raise Refused(
                422, f"voters: {served.name}@{served.version} is {kind}, and a guard alone has voters; leave it out"
            )
        pictures, deadline = await read_pictures(request, service.config.max_images), request.state.deadline
        request.state.about = {"model": served.name, "version": served.version, "images": len(pictures)}
        images = await service.decode(pictures, served, deadline=deadline)
        answers = await service.answer(served, images, deadline=deadline)
        return answers_reply(served, answers, top=top, voters=voters)


def refuse_unknown(request: Request) -> None:
    """Raises Refused (422) for a query parameter that the route does not take."""
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            hint = did_you_mean(name, known) if known else "this address takes none"
            raise Refused(422, f"there is no parameter {name!r:.80}; {hint}")


def choose(service: Service, name: str, pinned: str = "") -> Served:
    """Returns the version for a name, or `name@version`; a header may pin the version too. Raises Refused."""
    name, _, version = name.partition("@")
    if pinned and version and pinned != version:
        raise Refused(400, "the address and the header X-Loradar-Version name two versions; send one of them")
    return service.registry.choose(name, version or pinned)


async def read_pictures(request: Request, most: int) -> list[tuple[str, bytes]]:
    """Returns the pictures of a request, each with what errors call it: the body, or parts `image` of a form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        async with request.form(max_files=most, max_fields=0) as form:
            parts = form.multi_items()
            if not parts or any(name != "image" or not isinstance(part, UploadFile) for name, part in parts):
                raise Refused(422, "the form has other parts than files called 'image'; expected one or more of them")
            return [
                (f"image {index}", await part.read())
                for index, (_, part) in enumerate(parts)
                if not isinstance(part, str)
            ]
    if not (kind.startswith("image/") or kind == "application/octet-stream"):
        raise Refused(
            415,
            "the content type is neither image/* nor application/octet-stream, nor multipart/form-data with files 'image'",
        )
    data = await request.body()
    if not data:
        raise Refused(422, "the request is empty; expected an image")
    return [("image 0", data)]
