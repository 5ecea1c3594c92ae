"""What LitServe runs, in a module of its own, for its workers are new processes that import it."""

from typing import Any

import litserve
from fastapi import Request

from benchmarks.peers import answer, opened


class Api(litserve.LitAPI):  # type: ignore[misc]
    """One picture of a form `image` at a time."""

    place: str
    base: str | None

    def setup(self, device: str) -> None:
        self.served = opened(self.place, self.base, device)

    def decode_request(self, request: Request) -> Any:
        return request["image"].file.read()  # the form that it holds

    def predict(self, x: Any) -> Any:
        return answer(self.served, x)

    def encode_response(self, output: Any) -> Any:
        return output
