"""Checks and signs folders of adapters, tasks and guards."""

from dataclasses import dataclass
from pathlib import Path

from loradar.adapters import read_adapter, verify
from loradar.core.errors import BadFileError
from loradar.core.names import ADAPTER_RECORD, GUARD_RECORD
from loradar.core.remote import local_folder
from loradar.guard.files import read_guard, read_parts
from loradar.models import load_base


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A folder that is whole: its digest, "" where it has none, and in words what is bound."""

    digest: str
    bound: str


def verify_folder(folder: Path, *, base: str | None = None, key: Path | None = None) -> Verified:
    """Checks the files of an adapter, a task or a guard as opening them does, and that they fit `base`, if given.

    With `key`, the file of a public key, the folder must be signed by its owner. Raises BadFileError, WrongBaseError.
    """
    folder = local_folder(folder)
    if (folder / GUARD_RECORD).exists():
        digest = read_parts(folder, key=key).digest
        if base is not None:
            read_guard(folder, base=base)
    else:
        if problems := verify(folder, None if base is None else load_base(base).model):
            raise BadFileError("; ".join(problems))
        digest = read_adapter(folder, key=key)[1]
    if digest:
        return Verified(digest=digest, bound=f"bound as a whole by its digest {digest[:12]}")
    if (folder / ADAPTER_RECORD).exists() or (folder / GUARD_RECORD).exists():
        return Verified(digest="", bound="saved before digests: only its weights are bound")
    return Verified(digest="", bound="not saved by loradar: nothing is bound")


def sign_folder(folder: Path | str, key: Path | str) -> Path:
    """Signs an adapter, a task or a guard with its adapters by the private key in the file `key`.

    Returns the file of the signature, which goes with the folder. Raises BadFileError for a folder that is damaged or was
    saved before digests.
    """
    from loradar.core.signing import sign  # needs the extra `sign`

    return sign(Path(folder), verify_folder(Path(folder)).digest, Path(key))
