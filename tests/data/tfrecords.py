"""TFRecord files, written by protobuf and by tensorboard's writer: none of it is what reads them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.summary.writer.record_writer import RecordWriter


def _example() -> Any:
    """The class of `tf.train.Example`."""
    kinds = descriptor_pb2.FieldDescriptorProto
    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="made", syntax="proto3")
    for name, kind in (("Bytes", kinds.TYPE_BYTES), ("Float", kinds.TYPE_FLOAT), ("Int64", kinds.TYPE_INT64)):
        file.message_type.add(name=f"{name}List").field.add(name="value", number=1, type=kind, label=many)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes", "float", "int64"), 1):
        of = f".made.{name.title()}List"
        feature.field.add(name=f"{name}_list", number=number, type_name=of, label=one, oneof_index=0)
    features = file.message_type.add(name="Features")
    features.field.add(name="feature", number=1, type_name=".made.Features.FeatureEntry", label=many)
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=one)
    entry.field.add(name="value", number=2, type_name=".made.Feature", label=one)
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type_name=".made.Features", label=one)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("made.Example"))


Example = _example()


def example(image: bytes, label: int) -> bytes:
    made = Example()
    made.features.feature["image"].bytes_list.value.append(image)
    made.features.feature["label"].int64_list.value.append(label)
    return bytes(made.SerializeToString())


def write_records(path: Path, contents: Sequence[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for content in contents:
            writer.write(content)
    return path


def write_spec(folder: Path, spec: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_spec.json").write_text(json.dumps(spec, indent=2))
