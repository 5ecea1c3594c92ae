"""Sources of data by a one-line name."""

from collections.abc import Callable
from pathlib import Path

from loradar.core.errors import BadDataError, did_you_mean
from loradar.core.files import expand_home
from loradar.core.remote import is_uri, local_copy
from loradar.core.specs import split_spec
from loradar.data.batches import batches_source, has_batches
from loradar.data.cifar_c import cifar_c_source
from loradar.data.digits import digits_source
from loradar.data.folders import folder_source
from loradar.data.listed import chestx_source, isic_source
from loradar.data.meta_dataset import meta_dataset_source
from loradar.data.source import Source
from loradar.data.tables import hub_source, parquet_files, parquet_source

_COLUMNS = ("image", "label", "group")
_READERS: dict[str, tuple[Callable[..., Source], tuple[str, ...]]] = {
    "meta-dataset": (meta_dataset_source, ("split",)),
    "cifar-c": (cifar_c_source, ("corruption", "severity")),
    "isic": (isic_source, ()),
    "chestx": (chestx_source, ()),
}
"""What opens a folder by the word before it, and its options."""
_KINDS = (
    f"digits, hub:owner/name, {', '.join(f'{kind}:FOLDER' for kind in _READERS)}, a parquet file, or a folder of parquet "
    "files, of images by class or of CIFAR-10 batches"
)


def load_source(spec: str, *, size: tuple[int, int] | None = None) -> Source:
    """Load the source that `spec` names; its splits are read when they are asked for.

    | spec | what |
    |---|---|
    | `digits` | the built-in set; no test split |
    | `hub:owner/name` | the Hugging Face hub; options: image=, label=, group=COLUMN, config=NAME |
    | a `.parquet` file, or a folder of `train-*.parquet` and `test-*.parquet` | options: image=, label=, group=COLUMN |
    | a folder with a folder for each class, or `train/` and `test/` (or `val/`) above those | |
    | a folder `cifar-10-batches-py`, or the one above it | CIFAR-10 as its authors and torchvision keep it |
    | `meta-dataset:records/aircraft` | a data set that Meta-Dataset converted; option: split=train, valid, test or all |
    | `cifar-c:CIFAR-10-C` | CIFAR-10-C or CIFAR-100-C; options: corruption=NAME, severity=1 to 5 |
    | `isic:FOLDER` | ISIC 2018, task 3: the training images and the table of their diagnoses |
    | a URI such as `s3://bucket/images` | any of these files and folders, copied to this machine once |
    | `chestx:FOLDER` | ChestX-ray8: images with one of BSCD-FSL's seven findings, and no other |

    All images come as RGB, turned as their EXIF orientation says. Files that Pillow opens are pictures, whatever their
    name; notes and what systems leave beside them are skipped, and any other file is an error.

    Args:
        spec: The data, in one line.
        size: (height, width) that images of another size are brought to: scaled until they cover it, cropped about the
            centre. Without it all must have one size.

    Returns:
        The source.

    Raises:
        BadDataError: In one line, here or when a split is read.
    """
    what, options = split_spec(spec)
    if is_uri(what):
        what = str(local_copy(what))
    path = expand_home(Path(what))
    columns = {key: options.pop(key) for key in _COLUMNS if key in options}
    if what.startswith("hub:"):
        config = options.pop("config", None)
        _refuse(options, (*_COLUMNS, "config"), what)
        return hub_source(what.removeprefix("hub:"), config=config, columns=columns, size=size)
    kind, sign, folder = what.partition(":")
    if sign and kind in _READERS:
        read, known = _READERS[kind]
        _refuse(columns | options, known, what)
        place = local_copy(folder) if is_uri(folder) else expand_home(Path(folder))
        return read(_folder(place), size=size, **options)
    _refuse(options, _COLUMNS, what)
    if path.suffix.lower() == ".parquet" or (path.is_dir() and parquet_files(path)):
        if not path.exists():
            raise BadDataError(f"there is no file {what}")
        return parquet_source(path, columns=columns, size=size)
    _refuse(columns, (), what)
    if what == "digits":
        return digits_source(size=size)
    if not path.is_dir():
        raise BadDataError(f"there is no data {what!r}; expected {_KINDS}")
    if has_batches(path):
        return batches_source(path, size=size)
    return folder_source(path, size=size)


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise BadDataError(f"there is no folder {path}")
    return path


def _refuse(options: dict[str, str], known: tuple[str, ...], what: str) -> None:
    for key in [key for key in options if key not in known]:
        hint = did_you_mean(key, known) if known else "it takes none"
        raise BadDataError(f"{what!r} has no option {key!r}; {hint}")
