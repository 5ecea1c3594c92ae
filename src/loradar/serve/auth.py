"""Keys and what each may do: one table of rules; what it does not name is for admins."""

import hashlib
import hmac
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from loradar.core.errors import BadConfigError, BadFileError
from loradar.core.files import read_regular
from loradar.serve.errors import Refused

Role: TypeAlias = Literal["predict", "admin"]
ENVIRONMENT: dict[str, Role] = {"LORADAR_PREDICT_KEY": "predict", "LORADAR_ADMIN_KEY": "admin"}
SHORTEST = 16
"""Characters of a key."""

_ONE = "[^/]+"
RULES: tuple[tuple[str, str, Role | None], ...] = (
    ("GET", "/healthz|/readyz|/v2/health/live|/v2/health/ready", None),
    ("GET", f"/|/page/{_ONE}", None),
    ("GET", f"/metrics|/v1/session|/v1/traffic|/v1/models|/v1/models/{_ONE}", "predict"),
    ("POST", f"/v1/models/{_ONE}/(predict|inspect)", "predict"),
    ("GET", f"/v2|/v2/models/{_ONE}(/versions/{_ONE})?(/ready)?", "predict"),
    ("POST", f"/v2/models/{_ONE}(/versions/{_ONE})?/infer|/v2/repository/index", "predict"),
)
"""Method, path, and the role that it takes; None for what needs no key. All else takes an admin's."""


def role_for(method: str, path: str) -> Role | None:
    """Returns the role that a request takes.

    >>> role_for("GET", "/healthz"), role_for("POST", "/v1/models/digits/predict"), role_for("POST", "/anything")
    (None, 'predict', 'admin')
    """
    return next((role for m, rule, role in RULES if m == method and re.fullmatch(rule, path)), "admin")


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Who may come in: sha256 digests of keys, with their roles. The keys themselves are not kept."""

    roles: Mapping[bytes, Role]

    def check(self, headers: Mapping[str, str], needed: Role) -> str:
        """Returns a short name of the caller's key, for limits and logs.

        Without keys any caller on this machine may do everything, but not by way of a page from elsewhere. Raises Refused,
        401 or 403.
        """
        if not self.roles:
            _check_local(headers)
            return "local"
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode()).digest()
        found: Role | None = None
        for known, role in self.roles.items():  # all of them, so that the time says nothing of which
            if hmac.compare_digest(known, given):
                found = role
        if scheme.lower() != "bearer" or found is None:
            raise Refused(401, "a key is needed; send the header 'Authorization: Bearer KEY'")
        if needed == "admin" and found != "admin":
            raise Refused(403, "this needs an admin's key")
        return given.hex()[:8]


def read_keys(file: Path | None) -> Keys:
    """Reads keys from a file, or else from the environment. Raises BadFileError, BadConfigError for a short key.

    A line of the file is 'predict KEY' or 'admin KEY'; empty lines and those that begin with # do not count.
    """
    roles: dict[bytes, Role] = {}
    if file is None:
        given = [(role, os.environ[name], name) for name, role in ENVIRONMENT.items() if os.environ.get(name)]
    else:
        given = [_entry(line, f"line {n} of {file}") for n, line in enumerate(_lines(file), 1) if _counts(line)]
        if not given:
            raise BadFileError(f"{file} holds no key; expected lines such as 'predict KEY' and 'admin KEY'")
    for role, key, where in given:
        if len(key) < SHORTEST:
            raise BadConfigError(
                f"the key in {where} has {len(key)} characters; expected {SHORTEST} or more (`openssl rand -hex 32`)"
            )
        digest = hashlib.sha256(key.encode()).digest()
        if roles.setdefault(digest, role) != role:
            raise BadConfigError(f"the key in {where} has both roles; give admins a key of their own")
    return Keys(roles=roles)


def is_loopback(host: str) -> bool:
    """Whether every address of `host` is this machine's alone. Raises BadConfigError for a host that has no address."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise BadConfigError(
            f"host {host!r:.80} has no address here; expected one such as 127.0.0.1 or 0.0.0.0"
        ) from error
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def _check_local(headers: Mapping[str, str]) -> None:
    # a page from elsewhere can send requests here through the user's browser, under another name or from another origin
    host = headers.get("host", "")
    name = re.sub(r":[0-9]+$", "", host)
    if name.lower() not in ("localhost", "127.0.0.1", "[::1]"):
        raise Refused(403, "without keys this server answers to localhost alone; configure keys to call it otherwise")
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise Refused(403, "without keys this server does not answer pages from elsewhere")


def _lines(file: Path) -> list[str]:
    try:
        return read_regular(file).decode().splitlines()
    except OSError as error:
        raise BadFileError(f"cannot read the keys in {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise BadFileError(f"{file} is no text; expected lines such as 'predict KEY'") from error


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _entry(line: str, where: str) -> tuple[Role, str, str]:
    role, _, key = line.strip().partition(" ")
    for known in ("predict", "admin"):
        if role == known and key.strip() and " " not in key.strip():
            return known, key.strip(), where
    raise BadFileError(f"{where} is neither 'predict KEY' nor 'admin KEY'")  # what stands there may be a key
