"""Pushing a folder to the hub in one commit, and pulling it."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from loradar.adapters import fingerprint
from loradar.core.errors import BadConfigError, BadFileError, WrongBaseError
from loradar.core.files import expand_home, folder_atomically, read_regular, write_atomically
from loradar.core.names import SIGNATURE
from loradar.core.remote import ask_hub, at_commit, local_folder
from loradar.hub.cards import card_of
from loradar.hub.folders import README, Found, Kind, hide_places, inspect, is_public, name_base
from loradar.models import load_base

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_ON_HUB = re.compile(r"(stages:)?(hub:[^:]+)(:.*)?")
_SIGN_LATER = f"To publish it signed, take {SIGNATURE} away, push it, pull what was sent, sign that and push it again"
_MEMBERS: dict[Kind, tuple[str, ...]] = {"guard": ("adapters/",), "pool": ("pool/", "baselines/")}
"""Folders within which a push takes away what the folder does not have: a member that is left there would be opened."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What was sent: `files` with their sizes in bytes, the kind of folder, and the base that the sent record names.

    `url` is of the commit, or of the pull request; both it and `commit` are "" after a dry run.
    """

    kind: Kind
    base: str
    files: Mapping[str, int]
    url: str = ""
    commit: str = ""


def push(
    folder: Path | str,
    repo: str,
    *,
    base: str | None = None,
    license_name: str | None = None,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Sends an adapter, a task, a guard, a pool or a base to `repo`, "OWNER/NAME", in one commit.

    The folder is checked as opening it does, and left as it is. Only its safetensors, JSON and README.md are sent, with a
    model card that holds its figures. `base`, such as "hub:OWNER/NAME", is written into the record that is sent, with the
    commit that it stands for, once its fingerprint was found to be the record's. A `revision` that is not there becomes a
    branch. With `dry_run`, nothing is sent.

    Raises BadFileError for a folder that is damaged or that names a base on this machine, and for what the hub refuses;
    WrongBaseError for another base; BadConfigError.

    >>> push("runs/guard", "me/guard", base="hub:me/base").url  # doctest: +SKIP
    'https://huggingface.co/me/guard/commit/0123...'
    """
    repo = repo.removeprefix("hub:")
    if _REPO.fullmatch(repo) is None:
        raise BadConfigError(f"{repo!r:.80} is no name on the hub; expected OWNER/NAME")
    if create_pr and revision is not None:
        raise BadConfigError("a pull request is made against the main branch; give --create-pr or --revision")
    found = inspect(folder := expand_home(Path(folder)))
    name = _base_to_name(folder, found, base)
    with tempfile.TemporaryDirectory() as place:
        copy = _copied(folder, found, Path(place))
        if name != found.base:
            name_base(copy, found.kind, name)
        hidden = hide_places(copy, found, name)
        if hidden and SIGNATURE in found.files:
            raise BadFileError(
                f"{folder} is signed and names a place of this machine: {hidden[0]}; its signature covers every word. "
                + _SIGN_LATER
            )
        before = read_regular(copy / README).decode("utf-8", "replace") if (copy / README).exists() else ""
        card = card_of(
            kind=found.kind,
            repo=repo,
            base=name,
            fingerprint=found.base_fingerprint,
            license_name=license_name,
            results=found.results(),
            before=before,
        )
        write_atomically(copy / README, card.encode())
        files = inspect(copy).files  # what is sent can be opened
        pushed = Pushed(kind=found.kind, base=name, files={one: (copy / one).stat().st_size for one in files})
        if dry_run:
            return pushed
        return ask_hub(repo, lambda: _send(copy, repo, pushed, private=private, revision=revision, create_pr=create_pr))


def model_card(folder: Path | str) -> str:
    """Returns the README.md that `push` would write, with OWNER in the place of a name. Raises BadFileError."""
    found = inspect(folder := expand_home(Path(folder)))
    before = read_regular(folder / README).decode("utf-8", "replace") if README in found.files else ""
    return card_of(
        kind=found.kind,
        repo=f"OWNER/{folder.resolve().name}",
        base=found.base,
        fingerprint=found.base_fingerprint,
        license_name=None,
        results=found.results(),
        before=before,
    )


def pull(place: str, out: Path | str | None = None) -> tuple[Path, Kind]:
    """Fetches `place`, "OWNER/NAME[@REVISION]", and checks it as opening it does. Returns its local folder and its kind.

    With `out` its files are copied there, in the place of an earlier pull; else they stay in the hub's cache. Raises
    BadFileError, also where `out` holds anything that would be lost.
    """
    folder = local_folder(f"hub:{place.removeprefix('hub:')}")
    found = inspect(folder)
    if out is None:
        return folder, found.kind
    out = expand_home(Path(out))
    there = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    if lost := [path for path in there if path.relative_to(out).as_posix() not in found.files]:
        raise BadFileError(f"{lost[0]} is there already and is no file of {place}; choose another folder")
    with folder_atomically(out) as fresh:
        _copied(folder, found, fresh)
    return out, found.kind


def _copied(folder: Path, found: Found, to: Path) -> Path:
    for name in found.files:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, to / name)
    return to


def _base_to_name(folder: Path, found: Found, base: str | None) -> str:
    """The base's name for the record that is sent: `base`, or what the record says, with the commit of a name on the hub."""
    is_signed = SIGNATURE in found.files
    if found.kind == "base" and base is not None:
        raise BadConfigError(f"{folder} is a base itself; leave --base out")
    if base is not None and not is_public(base):
        raise BadConfigError(f"--base is {base!r}, a place of this machine; expected hub:OWNER/NAME")
    if base is None and found.base and not is_public(found.base):
        raise BadFileError(
            f"{folder} names its base {found.base!r}, a place of this machine; push the base first (loradar push BASE "
            "OWNER/NAME), then this with --base hub:OWNER/NAME"
        )
    asked = base or found.base
    if not asked or (base is None and is_signed):
        return found.base
    match = _ON_HUB.fullmatch(asked)
    name = f"{match[1] or ''}{at_commit(match[2])}{match[3] or ''}" if match else asked
    if name == found.base:
        return name
    if is_signed:
        raise BadFileError(
            f"{folder} is signed: its signature covers the base {found.base or 'not named'!r} and would not hold for "
            f"{name!r}. {_SIGN_LATER}"
        )
    own = fingerprint(load_base(name).model)
    if found.base_fingerprint not in ("", own):
        raise WrongBaseError(
            f"{folder} belongs to the base {found.base_fingerprint[:12]}, {name} is {own[:12]}; give the base that it was "
            "made with"
        )
    return name


def _send(copy: Path, repo: str, pushed: Pushed, *, private: bool, revision: str | None, create_pr: bool) -> Pushed:
    api = HfApi()
    api.create_repo(repo, private=private or None, exist_ok=True)
    if private and not api.repo_info(repo).private:
        raise BadFileError(f"{repo} is there already and is public; make it private on the hub, or leave --private out")
    if revision is not None:
        api.create_branch(repo, branch=revision, exist_ok=True)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, copy / name) for name in pushed.files
    ]
    if within := _MEMBERS.get(pushed.kind):
        there = api.list_repo_files(repo, revision=revision)
        gone = [name for name in there if name.startswith(within) and name not in pushed.files]
        operations += [CommitOperationDelete(name) for name in gone]
    sent = api.create_commit(
        repo, operations, commit_message=f"Push a {pushed.kind}", revision=revision, create_pr=create_pr
    )
    url = sent.pr_url or sent.commit_url
    return Pushed(kind=pushed.kind, base=pushed.base, files=pushed.files, url=url, commit=sent.oid)
