"""The four data sets of BSCD-FSL: two are folders by class, two have their classes in a table."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from loradar.core.errors import BadDataError
from loradar.data import load_source
from tests.data.pictures import pixels, png

ISIC = "ISIC2018_Task3_Training_"
DIAGNOSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


def _put(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(seed))


def test_crop_disease_is_a_folder_with_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("Apple___Apple_scab", "Corn_(maize)___Common_rust_")):
            _put(tmp_path / "dataset" / split / name / f"{split} a.JPG", number)
    source = load_source(str(tmp_path / "dataset"))
    assert source.classes == ("Apple___Apple_scab", "Corn_(maize)___Common_rust_")
    assert source.train.labels.tolist() == [0, 1]
    assert source.test is not None


def test_eurosat_is_a_folder_of_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("AnnualCrop", "Forest", "SeaLake")):
        _put(tmp_path / "2750" / name / f"{name}_1.jpg", number)
    assert load_source(str(tmp_path / "2750")).classes == ("AnnualCrop", "Forest", "SeaLake")
    with pytest.raises(BadDataError, match=r"expected classes \(give .*2750\?\)"):
        load_source(str(tmp_path))


def _isic(root: Path, rows: Sequence[str], *, below: str = "", header: str = ",".join(("image", *DIAGNOSES))) -> Path:
    table = root / below / f"{ISIC}GroundTruth.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join((header, *rows)) + "\n")
    for seed in range(3):
        _put(root / f"{ISIC}Input" / f"ISIC_002430{seed}.jpg", seed)
    (root / f"{ISIC}Input" / "LICENSE.txt").write_text("CC-0")
    return root


ROWS = ("ISIC_0024302,0.0,1.0,0.0,0.0,0.0,0.0,0.0", "ISIC_0024300,0,0,0,0,0,0,1")


@pytest.mark.parametrize("below", ["", f"{ISIC}GroundTruth"])
def test_isic_has_a_column_for_each_diagnosis(tmp_path: Path, below: str) -> None:
    source = load_source(f"isic:{_isic(tmp_path / 'isic', ROWS, below=below)}")
    assert (source.name, source.classes, source.test) == ("isic", DIAGNOSES, None)
    x, y = source.train.fetch(torch.arange(2))
    assert y.tolist() == [1, 6]
    assert torch.equal((x[0] * 255).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(pixels(2)))
    assert load_source(f"isic:{tmp_path / 'isic'}", size=(4, 4)).train.size == (4, 4)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["ISIC_0024300,1,1,0,0,0,0,0"], "line 2 is '1,1,0,0,0,0,0'; expected a 1 for one class"),
        (["ISIC_0024300,0,0,0,0,0,0,0"], "expected a 1 for one class"),
        (["ISIC_0024300,nan,1,0,0,0,0,0"], "expected a 1 for one class"),
        (["ISIC_0024300,yes,0,0,0,0,0,0"], "expected a 1 for one class"),
        (["", "ISIC_0024300,1,0"], "line 3 has 3 cells; expected 8"),
        ([ROWS[0], ROWS[0]], "lists an image twice: 2 rows, 1 images"),
        (
            ["ISIC_1,1,0,0,0,0,0,0", "ISIC_2,1,0,0,0,0,0,0"],
            r"lists 'ISIC_1\.jpg', which is not there \(2 are missing\)",
        ),
        (["../x,1,0,0,0,0,0,0"], r"lists '\.\./x\.jpg', which is not there"),
        (['ISIC_0024300,"1'], "is no table of text between commas"),
        (["x" * 200_000], "is no table of text between commas"),
        ([], "holds no images"),
    ],
)
def test_a_table_that_cannot_be_is_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(BadDataError, match=message) as raised:
        _ = load_source(f"isic:{_isic(tmp_path, rows)}").train
    assert "\n" not in str(raised.value)


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    for header, message in (("name,MEL,NV", "its columns are"), ("image,MEL,MEL", "the same name")):
        with pytest.raises(BadDataError, match=message):
            load_source(f"isic:{_isic(tmp_path, ['ISIC_0024300,1,0'], header=header)}")
    (tmp_path / f"{ISIC}GroundTruth.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(BadDataError, match="is no table of text"):
        load_source(f"isic:{tmp_path}")
    (tmp_path / f"{ISIC}GroundTruth.csv").unlink()
    with pytest.raises(BadDataError, match=r"there is no .*GroundTruth\.csv, nor a folder with it"):
        load_source(f"isic:{tmp_path}")
    with pytest.raises(BadDataError, match="has no option 'image'; it takes none"):
        load_source(f"isic:{tmp_path}:image=x")


def _chestx(root: Path, findings: Sequence[str], *, folders: Sequence[str] = ("images",)) -> Path:
    rows = [f"0000000{i}_000.png,{finding},0,{i},58,M,PA,2682,2749,0.143,0.143," for i, finding in enumerate(findings)]
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,"
        "Height],OriginalImagePixelSpacing[x,y],"
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "Data_Entry_2017.csv").write_text("\n".join((header, *rows)) + "\n")
    for i in range(len(findings)):
        _put(root / folders[i % len(folders)] / f"0000000{i}_000.png", i)
    return root


@pytest.mark.parametrize("folders", [("images",), ("images_001/images", "images_012/images")])
def test_chestx_keeps_one_finding_of_seven(tmp_path: Path, folders: tuple[str, ...]) -> None:
    findings = ("Nodule", "No Finding", "Mass|Nodule", "Pneumonia", "Hernia", "Atelectasis", "Pneumothorax")
    source = load_source(f"chestx:{_chestx(tmp_path / 'chestX', findings, folders=folders)}")
    assert source.classes == (
        *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumothorax"),
    )
    x, y = source.train.fetch(torch.arange(3))
    assert [source.classes[label] for label in y] == ["Nodule", "Atelectasis", "Pneumothorax"]
    for image, seed in zip((x * 255).round().to(torch.uint8), (0, 5, 6), strict=True):
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(pixels(seed)))


def test_what_is_missing_of_chestx_is_said(tmp_path: Path) -> None:
    root = _chestx(tmp_path / "chestX", ("Nodule", "Hernia"))
    (root / "images" / "00000001_000.png").unlink()  # of no class that is kept
    assert len(load_source(f"chestx:{root}").train) == 1
    (root / "images" / "00000000_000.png").unlink()
    with pytest.raises(BadDataError, match=r"lists '00000000_000\.png', which is not there"):
        load_source(f"chestx:{root}")
    (root / "Data_Entry_2017.csv").write_text("Image,Finding\n")
    with pytest.raises(BadDataError, match="expected Image Index, Finding Labels"):
        load_source(f"chestx:{root}")
    (root / "Data_Entry_2017.csv").unlink()
    with pytest.raises(BadDataError, match=r"there is no .*Data_Entry_2017\.csv"):
        load_source(f"chestx:{root}")
