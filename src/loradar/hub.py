"""Folders by their place: a folder of this machine, or `owner/name[@revision]` on the Hugging Face hub."""

import re
from pathlib import Path

from loradar.core.errors import BadFileError

_HUB_ID = re.compile(r"(?:hub:)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def fetch_folder(place: str | Path) -> Path:
    """Returns the local folder of `place`; what lies on the hub is downloaded, or taken from its cache.

    Only safetensors, JSON and Markdown files are fetched. Raises BadFileError where there is no such folder.
    """
    path = Path(place).expanduser()
    found = _HUB_ID.fullmatch(str(place))
    if path.exists() or found is None:
        if not path.is_dir():
            raise BadFileError(f"there is no folder {place}; expected a folder, or owner/name of the Hugging Face hub")
        return path
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.safetensors", "*.json", "*.md"]
        return Path(snapshot_download(found[1], revision=found[2], allow_patterns=patterns))
    except Exception as error:  # the client raises many kinds: no such name, no network, no right to read
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadFileError(
            f"there is no folder {place}, and it could not be fetched from the hub: {reason}; expected a folder, or "
            "owner/name of the Hugging Face hub"
        ) from error
