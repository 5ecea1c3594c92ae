"""The page at `/`, and the routes that it alone needs."""

import asyncio
from importlib import resources
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response

from loradar.serve.auth import Keys
from loradar.serve.errors import Refused
from loradar.serve.pictures import write_picture
from loradar.serve.replies import answers_reply
from loradar.serve.routes_predict import choose, read_pictures, refuse_unknown
from loradar.serve.service import Service
from loradar.serve.tryouts import attacks_of, suspected_region

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
_TOP = 5


def add_page(app: FastAPI, service: Service, keys: Keys) -> None:
    """Adds the routes. The page itself takes no key: it holds nothing but what is in the package."""
    files = {
        file.name: (file.read_bytes(), kind)
        for file in resources.files("loradar.serve").joinpath("page").iterdir()
        if (kind := _TYPES.get(file.name.rpartition(".")[2]))
    }

    def file_reply(name: str) -> Response:
        if name not in files:
            raise Refused(404, "the page has no such file")
        content, kind = files[name]
        return Response(content, media_type=kind, headers=HEADERS)

    @app.get("/")
    async def index() -> Response:
        return file_reply("index.html")

    @app.get("/page/{name}")
    async def page(name: str) -> Response:
        return file_reply(name)

    @app.get("/v1/session")
    async def session(request: Request) -> dict[str, Any]:
        is_admin = True
        try:
            keys.check(request.headers, "admin")
        except Refused:
            is_admin = False
        return {"role": "admin" if is_admin else "predict", "try_attacks": is_admin and service.config.try_attacks}

    @app.post("/v1/models/{name}/inspect", dependencies=[Depends(refuse_unknown)])
    async def inspect(name: str, request: Request) -> dict[str, Any]:
        service.check_open()
        served, deadline = choose(service, name), request.state.deadline
        request.state.about = {"model": served.name, "version": served.version, "images": 1}
        (image,) = await service.decode(await read_pictures(request, 1), served, deadline=deadline)
        (answer,) = await service.answer(served, [image], deadline=deadline)

        def drawn() -> dict[str, Any]:
            return {"picture": write_picture(image), "region": suspected_region(served, image, answer)}

        return (
            answers_reply(served, [answer], top=_TOP, voters=True)
            | await asyncio.get_running_loop().run_in_executor(service.decoders, drawn)
            | {"attacks": list(attacks_of(served)), "against": list(served.targets("calm"))}
        )

    @app.post("/v1/models/{name}/attack", dependencies=[Depends(refuse_unknown)])
    async def attack(name: str, request: Request, attack: str, against: str) -> dict[str, Any]:
        service.check_open()
        if not service.config.try_attacks:
            raise Refused(409, "this server attacks no pictures; start it with --try-attacks")
        served, deadline = choose(service, name), request.state.deadline
        request.state.about = {"model": served.name, "version": served.version, "images": 1}
        (image,) = await service.decode(await read_pictures(request, 1), served, deadline=deadline)
        tried = await service.attack(served, image, attack, against, deadline=deadline)
        return answers_reply(served, [tried.before, tried.after], top=_TOP, voters=True) | {
            "attack": tried.spec,
            "against": against,
            "picture": write_picture(tried.image),
            "region": tried.region,
        }
