"""Parquet files, and data sets of the hub with the hub replaced."""

from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from loradar.core.errors import BadDataError
from loradar.data import load_source
from tests.data.pictures import parquet, pixels, png

NAMES = ("cat", "dog")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards to train on and one to test on."""
    root = tmp_path / "pets"
    parquet(root / "train-00000-of-00002.parquet", [png(0), png(1)], [0, 1], names=NAMES)
    parquet(root / "train-00001-of-00002.parquet", [png(2)], [1], names=NAMES)
    parquet(root / "test-00000-of-00001.parquet", [png(3), png(4)], [1, 0], names=NAMES)
    return root


def test_shards_are_joined_in_order(folder: Path) -> None:
    source = load_source(str(folder))
    assert (source.name, source.classes) == ("pets", NAMES)
    x, y = source.train.fetch(torch.arange(3))
    assert y.tolist() == [0, 1, 1]
    for index in range(3):
        assert torch.equal((x[index] * 255).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(pixels(index)))
    assert source.test is not None
    assert source.test.labels.tolist() == [1, 0]
    assert source.test.name == "pets/test"


def test_what_macos_leaves_beside_shards_is_skipped(folder: Path) -> None:
    (folder / "._train-00000-of-00002.parquet").write_bytes(b"attributes")
    assert len(load_source(str(folder)).train) == 3


def test_one_file_or_one_split_is_what_there_is_to_train_on(folder: Path, tmp_path: Path) -> None:
    single = load_source(str(folder / "test-00000-of-00001.parquet"))
    assert single.test is None
    assert single.train.labels.tolist() == [1, 0]
    only = parquet(tmp_path / "novel" / "test.parquet", [png(0)], [1], names=NAMES).parent
    assert load_source(str(only)).test is None
    assert load_source(str(only)).train.name == "novel/test"


def test_without_a_schema_classes_are_the_words_or_the_numbers(tmp_path: Path) -> None:
    words = load_source(str(parquet(tmp_path / "w.parquet", [png(0), png(1)], ["dog", "cat"])))
    assert words.classes == ("cat", "dog")
    assert words.train.labels.tolist() == [1, 0]
    numbers = load_source(str(parquet(tmp_path / "n.parquet", [png(0), png(1)], [2, 0])))
    assert numbers.classes == ("0", "1", "2")


def test_columns_of_other_names_are_said(tmp_path: Path) -> None:
    path = tmp_path / "odd.parquet"
    pq.write_table(pa.table({"photo": pa.array([png(0)], pa.binary()), "kind": ["cat"], "n": [1]}), path)
    with pytest.raises(
        BadDataError, match=r"no column 'image'; known: 'photo', 'kind', 'n' \(say which with image=NAME"
    ):
        load_source(str(path))
    assert load_source(f"{path}:image=photo,label=kind").train.fetch(torch.tensor([0]))[0].shape == (1, 3, 8, 8)
    with pytest.raises(BadDataError, match="did you mean 'photo'"):
        load_source(f"{path}:image=foto,label=kind")


def test_a_picture_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(5))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": None, "path": str(tmp_path / name)} for name in ("a.png", "b.png")]
    pq.write_table(pa.table({"image": pa.array(rows, kind), "label": [0, 1]}), tmp_path / "x.parquet")
    train = load_source(str(tmp_path / "x.parquet")).train
    assert train.select(torch.tensor([0])).fetch(torch.tensor([0]))[0].shape == (1, 3, 8, 8)
    with pytest.raises(BadDataError, match="row 1: could not read"):
        train.fetch(torch.tensor([0]))


def test_what_is_broken_or_missing_is_named(folder: Path, tmp_path: Path) -> None:
    for labels, message in (([0, None], "row 1 has no label"), ([0, -100], r"labels span \[-100, 0\]")):
        path = parquet(tmp_path / "l.parquet", [png(0), png(1)], labels, names=NAMES)
        with pytest.raises(BadDataError, match=message):
            _ = load_source(str(path)).train
    none = parquet(tmp_path / "none.parquet", [b"broken"], [0], names=NAMES)
    with pytest.raises(BadDataError, match="none/none, row 0 cannot be read"):
        load_source(str(none), size=(8, 8)).train.fetch(torch.tensor([0]))
    for content in ([None], [3]):
        pq.write_table(pa.table({"image": pa.array(content, pa.int64()), "label": [0]}), tmp_path / "i.parquet")
        with pytest.raises(BadDataError, match="expected a picture's bytes"):
            _ = load_source(str(tmp_path / "i.parquet")).train
    shard = folder / "train-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-30])
    with pytest.raises(BadDataError, match="no whole parquet file"):
        load_source(str(folder))
    with pytest.raises(BadDataError, match="there is no file"):
        load_source(str(tmp_path / "nothing.parquet"))


def test_shards_that_do_not_belong_together_are_refused(folder: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), folder / "train-00002-of-00002.parquet")
    with pytest.raises(BadDataError, match="different columns"):
        load_source(str(folder))
    (folder / "train-00002-of-00002.parquet").unlink()
    parquet(folder / "extra.parquet", [png(0)], [0], names=NAMES)
    with pytest.raises(BadDataError, match=r"has extra\.parquet; expected train-"):
        load_source(str(folder))


def _hub(monkeypatch: pytest.MonkeyPatch, splits: tuple[str, ...]) -> list[tuple[str, str | None]]:
    asked: list[tuple[str, str | None]] = []
    features = datasets.Features({"img": datasets.Image(), "fine": datasets.ClassLabel(names=list(NAMES))})
    rows = {"img": [Image.fromarray(pixels(i)) for i in range(3)], "fine": [0, 1, 1]}

    def load(name: str, config: str | None) -> dict[str, datasets.Dataset]:
        asked.append((name, config))
        return {split: datasets.Dataset.from_dict(rows, features=features) for split in splits}

    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_a_hub_data_set_says_its_columns_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _hub(monkeypatch, ("train", "validation"))
    source = load_source("hub:owner/pets:config=small")
    assert asked == [("owner/pets", "small")]
    assert (source.name, source.classes) == ("owner/pets", NAMES)
    assert source.test is not None
    assert source.test.name == "owner/pets/validation"
    x, y = source.train.fetch(torch.tensor([2]))
    assert torch.equal((x[0] * 255).round().to(torch.uint8).permute(1, 2, 0), torch.from_numpy(pixels(2)))
    assert y.tolist() == [1]


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_name: str, _config: str | None) -> None:
        raise ConnectionError("Couldn't reach 'owner/pets' on the Hub\nwith details")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(BadDataError, match="is there a network") as raised:
        load_source("hub:owner/pets")
    assert "\n" not in str(raised.value)
    with pytest.raises(BadDataError, match="expected hub:owner/name"):
        load_source("hub:pets")


def test_splits_without_one_to_train_on_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _hub(monkeypatch, ("test", "extra"))
    with pytest.raises(BadDataError, match="has splits 'test', 'extra'; expected 'train'"):
        load_source("hub:owner/pets")
    _hub(monkeypatch, ())
    with pytest.raises(BadDataError, match="holds no splits"):
        load_source("hub:owner/pets")


def test_a_column_may_say_what_belongs_together(tmp_path: Path) -> None:
    file = parquet(tmp_path / "tracks.parquet", [png(i) for i in range(4)], [0, 1, 0, 1], names=NAMES)
    table = pq.read_table(file)
    pq.write_table(table.append_column("track", pa.array(["x", "y", "x", None])), file)
    images = load_source(f"{file}:group=track").train
    assert images.groups is not None
    assert images.groups.tolist() == [0, 1, 0, 2]
    chosen = images.select(torch.tensor([3, 1])).groups
    assert chosen is not None
    assert chosen.tolist() == [2, 1]
    assert load_source(str(file)).train.groups is None
    with pytest.raises(BadDataError, match="has no column trak; did you mean 'track'"):
        _ = load_source(f"{file}:group=trak").train


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("[", "is damaged"),
        ("true", "is damaged"),
        ('{"info": 5}', "is damaged"),
        ('{"info": {"features": []}}', "is damaged"),
        ('{"info": {"features": {"label": {"_type": "ClassLabel", "names": [1]}}}}', "expected a list of text"),
        ('{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "a"]}}}}', "the same name"),
    ],
)
def test_a_damaged_schema_is_said(tmp_path: Path, schema: str, message: str) -> None:
    path = parquet(tmp_path / "one.parquet", [png(0), png(1)], [0, 1])
    pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": schema}), path)
    with pytest.raises(BadDataError, match=message):
        load_source(str(path))


def test_a_damaged_name_of_a_column_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"label": [0, 1], "zz": [0, 1]}), path)
    path.write_bytes(path.read_bytes().replace(b"zz", b"\xab\xab"))
    with pytest.raises(BadDataError, match="is no whole parquet file"):
        load_source(str(path))
