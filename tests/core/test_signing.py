"""Keys and signatures: who may be read, what is refused, and that no key is ever lost."""

import json
import sys
from pathlib import Path

import pytest

from loradar.core.errors import BadConfigError, BadFileError

pytest.importorskip("cryptography", reason="cryptography, of the extra 'sign', is not installed")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from loradar.core.signing import check_signed, make_keys, sign

DIGEST, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return make_keys(tmp_path / "keys" / "mine")


def test_the_private_key_is_for_its_owner_alone(keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.name == "mine.pub"
    assert b"PRIVATE KEY" in private.read_bytes()
    assert b"PUBLIC KEY" in public.read_bytes()


def test_no_key_is_lost(keys: tuple[Path, Path]) -> None:
    before = [path.read_bytes() for path in keys]
    with pytest.raises(BadFileError, match="exists; choose another name"):
        make_keys(keys[0])
    keys[1].unlink()
    with pytest.raises(BadFileError, match="exists; choose another name"):
        make_keys(keys[0])
    assert keys[0].read_bytes() == before[0]
    assert not keys[1].exists()


def test_what_is_signed_is_known_and_nothing_else(keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    with pytest.raises(BadFileError, match=r"is not signed: cannot read signature\.json"):
        check_signed(tmp_path, DIGEST, public)
    file = sign(tmp_path, DIGEST, private)
    check_signed(tmp_path, DIGEST, public)
    with pytest.raises(BadFileError, match="has another digest"):
        check_signed(tmp_path, OTHER, public)
    with pytest.raises(BadFileError, match="has no digest that could be signed"):
        check_signed(tmp_path, "", public)
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"digest": OTHER}))
    with pytest.raises(BadFileError, match="is not signed by the owner of"):
        check_signed(tmp_path, OTHER, public)
    file.write_text(json.dumps(content))
    with pytest.raises(BadFileError, match="is not signed by the owner of"):
        check_signed(tmp_path, DIGEST, make_keys(tmp_path / "theirs")[1])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"signature": 3}', '{"signature": "xyz"}', "[" * 100_000])
def test_a_damaged_signature(keys: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    (tmp_path / "signature.json").write_text(text)
    with pytest.raises(BadFileError, match="is damaged") as error:
        check_signed(tmp_path, DIGEST, keys[1])
    assert "\n" not in str(error.value)


def test_files_that_are_no_key(keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    sign(tmp_path, DIGEST, private)
    other = rsa.generate_private_key(65537, 2048)
    (tmp_path / "rsa").write_bytes(
        other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (tmp_path / "text").write_text("a key")
    for path in (public, tmp_path / "rsa", tmp_path / "text"):
        with pytest.raises(BadFileError, match="holds no Ed25519 private key"):
            sign(tmp_path, DIGEST, path)
    for path in (private, tmp_path / "rsa", tmp_path / "text"):
        with pytest.raises(BadFileError, match="holds no Ed25519 public key"):
            check_signed(tmp_path, DIGEST, path)
    with pytest.raises(BadFileError, match="cannot read the key"):
        sign(tmp_path, DIGEST, tmp_path / "none")
    with pytest.raises(BadFileError, match="has no digest: an earlier version or PEFT saved it"):
        sign(tmp_path, "", private)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "loradar.core.signing")
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(BadConfigError, match=r'pip install "loradar\[sign\]"'):
        import loradar.core.signing  # noqa: F401
