"""Who may do what: every route of the app with every kind of key."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from loradar.core.errors import BadConfigError, LoradarError
from loradar.serve.app import create_app
from loradar.serve.auth import Keys, is_loopback, read_keys, role_for
from loradar.serve.config import ServeConfig
from loradar.serve.registry import Registry
from loradar.serve.server import bind
from loradar.serve.service import Service, assemble
from tests.serve.test_registry import made

PREDICT, ADMIN = "p" * 16, "a" * 32
ROUTES = {
    "public": """
        GET /healthz
        GET /readyz
        GET /v2/health/live
        GET /v2/health/ready
        GET /
        GET /page/{name}
    """,
    "predict": """
        GET /v1/session
        GET /metrics
        GET /v1/traffic
        GET /v1/models
        GET /v1/models/{name}
        POST /v1/models/{name}/predict
        POST /v1/models/{name}/inspect
        GET /v2
        GET /v2/models/{name}
        GET /v2/models/{name}/versions/{version}
        GET /v2/models/{name}/ready
        GET /v2/models/{name}/versions/{version}/ready
        POST /v2/models/{name}/infer
        POST /v2/models/{name}/versions/{version}/infer
        POST /v2/repository/index
    """,
    "admin": """
        POST /v1/models/{name}/attack
        POST /v1/models/{name}/versions
        POST /v1/models/{name}/activate
        POST /v1/models/{name}/rollback
        PUT /v1/models/{name}/weights
        DELETE /v1/models/{name}/versions/{version}
        POST /v2/repository/models/{name}/load
        POST /v2/repository/models/{name}/unload
    """,
}
"""Every route that there is, by who may ask it."""
RULES = {line: role for role, lines in ROUTES.items() for line in (one.strip() for one in lines.strip().splitlines())}
KEYS = {"none": None, "wrong": "Bearer " + "x" * 32, "predict": f"Bearer {PREDICT}", "admin": f"Bearer {ADMIN}"}
MAY = {"public": set(KEYS), "predict": {"predict", "admin"}, "admin": {"admin"}}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    file = tmp_path_factory.mktemp("keys") / "keys.txt"
    file.write_text(f"# ours\npredict {PREDICT}\n\nadmin  {ADMIN}\n")
    return read_keys(file)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    config = ServeConfig(models=["m=one"])
    service = assemble(config, Registry(made))
    service.registry.load("m", "one")[1].result()
    yield service
    service.close()


@pytest.fixture(scope="module")
def app(service: Service, keys: Keys) -> FastAPI:
    return create_app(service, keys)


def test_every_route_has_a_rule(app: FastAPI) -> None:
    found = {
        f"{method} {getattr(route, 'path', route)}"
        for route in app.routes
        for method in getattr(route, "methods", ["?"])
    }
    assert found == set(RULES)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("route", RULES)
def test_a_route_answers_those_who_may_ask(route: str, key: str, app: FastAPI) -> None:
    method, path = route.split()
    header = KEYS[key]
    reply = TestClient(app, raise_server_exceptions=False).request(
        method,
        path.format(name="nobody", version="v1"),
        headers={} if header is None else {"Authorization": header},
    )
    if key in MAY[RULES[route]]:
        assert reply.status_code not in (401, 403)
        assert reply.status_code < 500
    else:
        assert reply.status_code == (403 if key == "predict" else 401)
        assert reply.json().keys() == {"error"}
    assert not any(secret in reply.text for secret in (PREDICT, ADMIN, "x" * 32))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/m/predict/",
        "/healthz/",
        "/v1/models/a%2Fb/predict",
        "/V1/models",
        "/page/../x",
        "/none",
    ],
)
def test_an_address_that_is_no_route_is_for_admins(path: str, app: FastAPI) -> None:
    assert role_for("GET", path) == "admin"
    assert TestClient(app).get(path).status_code == 401


@pytest.mark.parametrize(
    "header", ["", "Bearer", f"Basic {ADMIN}", ADMIN, f"Bearer {ADMIN}x", f"Bearer {ADMIN[:-1]}", "Bearer é" * 3]
)
def test_what_is_no_key_is_none(header: str, app: FastAPI) -> None:
    reply = TestClient(app).get("/v1/models", headers={b"Authorization": header.encode("latin-1")})
    assert reply.status_code == 401
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:9000"}, 403),
    ],
)
def test_without_keys_only_this_machine_and_no_page_from_elsewhere(
    headers: dict[str, str], status: int, service: Service
) -> None:
    client = TestClient(create_app(service, Keys(roles={})), base_url="http://localhost")
    assert client.get("/v1/models", headers=headers).status_code == status


BAD_FILES = {
    "nothing": "# none\n",
    "another role": "root 0123456789abcdef\n",
    "no role": "0123456789abcdef\n",
    "two keys": "admin 0123456789abcdef 0123456789abcdef\n",
    "a short key": "predict short\n",
    "both roles": "predict 0123456789abcdef\nadmin 0123456789abcdef\n",
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_of_keys_is_checked_and_its_keys_are_not_said(case: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(BAD_FILES[case])
    with pytest.raises(LoradarError) as refused:
        read_keys(file)
    assert "0123456789abcdef" not in str(refused.value)
    assert str(file) in str(refused.value)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_keys(None).roles == {}
    monkeypatch.setenv("LORADAR_ADMIN_KEY", ADMIN)
    assert list(read_keys(None).roles.values()) == ["admin"]
    assert ADMIN not in repr(read_keys(None))


def test_without_keys_only_loopback_is_bound(keys: Keys) -> None:
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    with pytest.raises(BadConfigError, match="no keys"):
        bind(ServeConfig(models=["x"], host="0.0.0.0", port=0), Keys(roles={}))
    with pytest.raises(BadConfigError, match="has no address"):
        bind(ServeConfig(models=["x"], host="no.such.host.invalid", port=0), Keys(roles={}))
    bound = bind(ServeConfig(models=["x"], port=0), Keys(roles={}))
    bound.listen()
    with bound, pytest.raises(BadConfigError, match="choose another --port"):
        bind(ServeConfig(models=["x"], port=bound.getsockname()[1]), keys)
