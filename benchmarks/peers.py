"""Other servers of the same model: each decodes and answers by our own functions, so that what differs is the server.

    python -m benchmarks.peers litserve|ray PLACE PORT [BASE]

At their defaults.
"""

import importlib.util
import sys
import time
from dataclasses import dataclass
from typing import Any

from loradar.serve.models import Opening, Served, open_served
from loradar.serve.pictures import read_picture
from loradar.serve.replies import answers_reply


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The module that is to be there, and where and how it takes a picture: as the body, or as the file of a form."""

    module: str
    path: str
    takes_forms: bool


PEERS = {
    "LitServe": Peer(module="litserve", path="/predict", takes_forms=True),
    "Ray Serve": Peer(module="ray", path="/", takes_forms=False),
}


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(PEERS[name].module) is not None


def opened(place: str, base: str | None, device: str) -> Served:
    return open_served(place, Opening(base=base, device=device, precision="fp32"), name="m", version="v1")


def answer(served: Served, data: bytes) -> dict[str, Any]:
    """What `loradar serve` answers to one picture."""
    size = served.input_size[1], served.input_size[2]
    x = read_picture(data, "image", size=size, max_pixels=25_000_000)
    return answers_reply(served, served.answer(x[None]), top=1, voters=False)


def serve_litserve(place: str, port: int, base: str | None) -> None:
    import litserve

    from benchmarks.litserve_api import Api

    api = Api()
    api.place, api.base = place, base
    litserve.LitServer(api).run(host="127.0.0.1", port=port, generate_client_file=False)


def serve_ray(place: str, port: int, base: str | None) -> None:
    from ray import serve

    class Model:
        def __init__(self) -> None:
            self.served = opened(place, base, "auto")

        async def __call__(self, request: Any) -> Any:
            return answer(self.served, await request.body())

    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(serve.deployment(Model).bind())
    while True:
        time.sleep(3600)


def main() -> None:
    name, place, port, base = [*sys.argv[1:], None][:4]
    {"LitServe": serve_litserve, "Ray Serve": serve_ray}[str(name)](str(place), int(str(port)), base)


if __name__ == "__main__":
    main()
