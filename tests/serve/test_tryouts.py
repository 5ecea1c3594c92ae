"""The page's own routes: what they say, who may ask them, and that trying an attack disturbs nobody."""

import base64
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient
from torch import Tensor, nn

from loradar.attacks import parse_attack
from loradar.serve.app import create_app
from loradar.serve.auth import read_keys
from loradar.serve.errors import Refused
from loradar.serve.models import Served
from loradar.serve.pictures import read_picture, write_picture
from loradar.serve.service import Service
from loradar.serve.tryouts import Tryouts, attacks_of
from tests.guard import toys
from tests.serve.conftest import KINDS, running
from tests.serve.test_app import PNG, png

PREDICT, ADMIN = "p" * 16, "a" * 16


@pytest.fixture(scope="module")
def service(places: dict[str, Path]) -> Iterator[Service]:
    with running(places, KINDS, try_attacks=True) as service:
        yield service


def decoded(picture: str) -> Tensor:
    return read_picture(base64.b64decode(picture), "image", size=(32, 32), max_pixels=1024)


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    for name in ("app.js", "chart.js", "dom.js", "server.js", "verdict.js", "style.css", "icon.svg"):
        reply = client.get(f"/page/{name}")
        assert (reply.status_code, reply.headers["x-content-type-options"]) == (200, "nosniff")
        assert reply.headers["content-security-policy"] == policy
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"):
            assert word not in reply.text, (name, word)
        assert "http" not in reply.text.replace("http://www.w3.org/2000/svg", ""), name
    for name in ("..%2Fapp.py", "app.py", "none"):
        assert client.get(f"/page/{name}").status_code == 404


def test_inspecting_is_predicting_with_a_picture_and_a_region(client: TestClient, images: Tensor) -> None:
    x = toys.smooth_images(1, seed=3)
    suspected = []
    for image in torch.cat([toys.attacked("patch", x), toys.attacked("noise", x), images[:1]]):
        body = png(image)
        reply = client.post("/v1/models/guard/inspect", content=body, headers=PNG).json()
        expected = client.post("/v1/models/guard/predict?top=5&voters=true", content=body, headers=PNG).json()
        assert expected.items() <= reply.items()
        assert torch.equal((decoded(reply["picture"]) * 255).round(), (image * 255).round())
        suspected.append((reply["predictions"][0]["suspected"]["attack"], reply["region"]))
    # where it is; noise lies everywhere, and what is unknown anywhere
    assert suspected == [("patch", [8, 20, 5, 5]), ("noise", None), ("unknown", None)]
    assert (reply["attacks"], reply["against"]) == (["patch", "noise"], ["base", "guard"])
    for kind in ("task", "adapter", "base"):
        reply = client.post(f"/v1/models/{kind}/inspect", content=png(images[0]), headers=PNG).json()
        assert (reply["attacks"], reply["against"], reply["region"]) == (["roa", "pgd"], [kind], None)


@pytest.mark.parametrize(
    ("model", "attack", "against"),
    [("guard", "patch", "base"), ("guard", "noise", "guard"), ("task", "pgd", "task"), ("adapter", "roa", "adapter")],
)
def test_an_attack_is_the_librarys_and_its_answers_are_the_models(
    model: str, attack: str, against: str, client: TestClient, images: Tensor, served: dict[str, Served]
) -> None:
    one, x = served[model], images[1:2]
    client.post(f"/v1/models/{model}/predict", content=png(x[0]), headers=PNG)
    before = client.get("/v1/traffic").json()
    reply = client.post(
        f"/v1/models/{model}@v1/attack?attack={attack}&against={against}", content=png(x[0]), headers=PNG
    ).json()
    assert client.get("/v1/traffic").json() == before  # trying is no traffic
    known = attacks_of(one)[attack]
    assert reply["attack"] == known.spec
    target = one.targets("calm")[against]
    with torch.no_grad():
        label = target(x).argmax(1)
    x_adv = (known(target, x, label) * 255).round() / 255
    assert torch.equal(decoded(reply["picture"]), x_adv[0])
    for found, answer in zip(reply["predictions"], one.answer(torch.cat([x, x_adv])), strict=True):
        assert found["label"] == answer.label
        assert found["probability"] == pytest.approx(float(answer.probabilities.max()), abs=1e-5)
    rows = (x_adv != x)[0].any(0).nonzero()
    if reply["region"]:
        top, left, height, width = reply["region"]
        assert (height, width) <= (5, 5)
        assert [top, left] == rows.amin(0).tolist()
        assert [top + height - 1, left + width - 1] == rows.amax(0).tolist()
    assert bool(reply["region"]) == (attack in ("patch", "roa"))


def test_attacks_take_an_admin_and_the_servers_leave(
    service: Service, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"predict {PREDICT}\nadmin {ADMIN}\n")
    client = TestClient(create_app(service, read_keys(file)))

    def status(path: str, key: str) -> int:
        headers = PNG | {"Authorization": f"Bearer {key}"}
        return client.post(f"/v1/models/guard/{path}", content=png(images[0]), headers=headers).status_code

    def session(key: str) -> object:
        return client.get("/v1/session", headers={"Authorization": f"Bearer {key}"}).json()

    attack = "attack?attack=noise&against=base"
    assert client.get("/").status_code == 200
    assert client.get("/v1/session").status_code == 401
    assert session(PREDICT) == {"role": "predict", "try_attacks": False}
    assert session(ADMIN) == {"role": "admin", "try_attacks": True}
    assert [status("inspect", key) for key in (PREDICT, ADMIN, "x")] == [200, 200, 401]
    assert [status(attack, key) for key in (PREDICT, ADMIN, "x")] == [403, 200, 401]
    assert status("attack?attack=autoattack&against=base", ADMIN) == 422
    assert status("attack?attack=noise&against=other", ADMIN) == 422
    assert status("attack", ADMIN) == 422
    monkeypatch.setattr(service, "config", service.config.model_copy(update={"try_attacks": False}))
    assert status(attack, ADMIN) == 409
    assert session(ADMIN) == {"role": "admin", "try_attacks": False}


class Slow(nn.Module):
    """Answers once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.let, self.asked = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        self.asked.set()
        self.let.wait(10)
        return x.mean((1, 2, 3))[:, None] * self.weight


def slow_model(served: Served, slow: Slow) -> Served:
    return Served(**{**vars(served), "targets": lambda _: {"slow": slow}, "attacks": {}})


def test_two_run_or_wait_and_others_are_answered_meanwhile(
    client: TestClient, served: dict[str, Served], images: Tensor
) -> None:
    slow, tryouts = Slow(), Tryouts()
    model = slow_model(served["base"], slow)
    far = time.monotonic() + 60
    first = tryouts.submit(model, images[0], "pgd", "slow", level="calm", deadline=far)
    second = tryouts.submit(model, images[0], "pgd", "slow", level="calm", deadline=far)
    with pytest.raises(Refused, match="come again") as refused:
        tryouts.submit(model, images[0], "pgd", "slow", level="calm", deadline=far)
    assert refused.value.status == 429
    assert slow.asked.wait(10)
    assert client.post("/v1/models/base/predict", content=png(images[0]), headers=PNG).status_code == 200
    assert not first.done()
    slow.let.set()
    assert first.result(10).spec == second.result(10).spec == parse_attack("pgd").spec
    tryouts.submit(model, images[0], "pgd", "slow", level="calm", deadline=far).result(10)
    tryouts.close()


def test_an_attack_ends_with_its_request(served: dict[str, Served], images: Tensor) -> None:
    slow, tryouts = Slow(), Tryouts()
    future = tryouts.submit(
        slow_model(served["base"], slow), images[0], "pgd", "slow", level="calm", deadline=time.monotonic() + 0.2
    )
    assert slow.asked.wait(10)
    time.sleep(0.3)
    slow.let.set()
    with pytest.raises(Refused, match="longer than a request may"):
        future.result(10)
    tryouts.close()


def test_what_cannot_be_tried_is_not_offered(served: dict[str, Served]) -> None:
    specs = {"one": "pgd:steps=2", "layers": "fia", "foreign": "nothing:x=1"}
    assert list(attacks_of(Served(**{**vars(served["guard"]), "attacks": specs}))) == ["one"]


def test_a_picture_goes_there_and_back(images: Tensor) -> None:
    for image in images:
        assert torch.equal(decoded(write_picture(image)), image)
