import json
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from tensorflow_datasets.core.registered import skip_registration

from taxonomy.data.tfds_source import TfdsSource, _find_builder
from taxonomy.errors import UserError
from taxonomy.registry import create

SIZES = {"train": 60, "validation": 7, "test": 3}


def builder_class(name, sizes, texts=None):
    """A small dataset whose example i of a split is 'split i é'."""

    def examples(split):
        for number in range(sizes[split]):
            body = texts[number] if texts else f"{split} {number} é"
            yield number, {"body": body, "title": f"title {number}", "number": number}

    def info(self):
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict({"body": text, "title": text, "number": np.int32})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    members = {
        "VERSION": tfds.core.Version("1.0.0"),
        "name": name,
        "_info": info,
        "_split_generators": lambda self, manager: {split: examples(split) for split in sizes},
        "_generate_examples": None,
    }
    with skip_registration():
        return type(name.title().replace("_", ""), (tfds.core.GeneratorBasedBuilder,), members)


def prepare(directory, name, sizes, **arguments):
    builder_class(name, sizes, **arguments)(data_dir=directory, file_format="array_record").download_and_prepare()
    return str(directory)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tfds")
    prepare(directory, "whole", SIZES)
    prepare(directory, "only_train", {"train": 40})
    return str(directory)


def test_a_prepared_dataset_is_read_by_name(data_dir):
    source = create("source", f"tfds('whole', field='body', data_dir='{data_dir}')", where="data.source")
    for split, size in SIZES.items():
        assert list(source.documents(split)) == [f"{split} {number} é" for number in range(size)]


def test_splits_may_be_parts_of_splits(data_dir):
    source = TfdsSource("whole", "body", data_dir, train="train[:10%]", validation="train[50%:]", test="test+validation")
    assert list(source.documents("train")) == [f"train {number} é" for number in range(6)]
    assert list(source.documents("validation")) == [f"train {number} é" for number in range(30, 60)]
    assert len(list(source.documents("test"))) == 10


@pytest.mark.parametrize(("train", "size", "held_out"), [("train", 40, 2), ("train[10:20]", 10, 1)])
def test_validation_is_carved_out_of_train(data_dir, train, size, held_out):
    source = TfdsSource("only_train", "body", data_dir, train=train)
    kept, validation = list(source.documents("train")), list(source.documents("validation"))
    first = 10 if size == 10 else 0
    assert kept + validation == [f"train {number} é" for number in range(first, first + size)]
    assert len(validation) == held_out


def test_more_documents_than_are_read_at_once(tmp_path):
    source = TfdsSource("long", "body", prepare(tmp_path, "long", {"train": 1000, "validation": 1}))
    assert list(source.documents("train")) == [f"train {number} é" for number in range(1000)]


def test_empty_documents_are_left_out(tmp_path):
    source = TfdsSource("gaps", "body", prepare(tmp_path, "gaps", {"train": 3, "validation": 3}, texts=["a", "", "b"]))
    assert list(source.documents("train")) == ["a", "b"]


def test_fingerprint_follows_data_and_settings(data_dir, tmp_path):
    other = prepare(tmp_path, "whole", SIZES | {"train": 59})
    sources = [
        TfdsSource("whole", "body", data_dir),
        TfdsSource("whole", "title", data_dir),
        TfdsSource("whole", "body", data_dir, train="train[:50%]"),
        TfdsSource("whole", "body", other),
    ]
    assert len({source.fingerprint() for source in sources}) == 4
    assert TfdsSource("whole", "body", data_dir).fingerprint() == sources[0].fingerprint()


def test_tfrecord_copies_are_read_without_tensorflow(data_dir, tmp_path):
    """The same examples as TFRecord, in two shards, as other machines have prepared them."""
    source = TfdsSource("whole", "body", data_dir)
    folder = tmp_path / "whole" / "1.0.0"
    folder.mkdir(parents=True)
    prepared = source._builder.data_path
    records = ArrayRecordDataSource([str(prepared / "whole-train.array_record-00000-of-00001")])
    serialized = [records[number] for number in range(len(records))]
    for shard, (first, last) in enumerate([(0, 25), (25, 60)]):
        with open(folder / f"whole-train.tfrecord-0000{shard}-of-00002", "wb") as file:
            for record in serialized[first:last]:
                file.write(struct.pack("<QI", len(record), 0) + record + struct.pack("<I", 0))
    (folder / "features.json").write_text((prepared / "features.json").read_text())
    info = (prepared / "dataset_info.json").read_text().replace("array_record", "tfrecord")
    described = json.loads(info)
    described["splits"] = [split for split in described["splits"] if split["name"] == "train"]
    described["splits"][0]["shardLengths"] = ["25", "35"]
    (folder / "dataset_info.json").write_text(json.dumps(described))

    copy = TfdsSource("whole", "body", str(tmp_path))
    texts = list(source.documents("train"))
    assert list(copy.documents("train")) == texts[:57]
    assert list(copy.documents("validation")) == texts[57:]
    part = TfdsSource("whole", "body", str(tmp_path), train="train[20:30]", validation="train[58:]")
    assert list(part.documents("train")) == texts[20:30]
    assert list(part.documents("validation")) == texts[58:]


@pytest.mark.parametrize("name", ["lm1b", "c4/en", "wiki40b/en", "wikipedia/20230601.en"])
def test_datasets_are_found_by_name_in_both_layouts(name, tmp_path):
    builder = _find_builder(name, str(tmp_path), name)
    assert builder.info.full_name.startswith(name + "/")
    assert "text" in builder.info.features


def test_a_missing_dataset_says_what_was_tried(tmp_path):
    with pytest.raises(UserError) as caught:
        list(TfdsSource("tiny_shakespear", data_dir=str(tmp_path)).documents("train"))
    message = str(caught.value)
    assert message.startswith(f"data.source: tfds(dataset='tiny_shakespear', data_dir='{tmp_path}'): no such dataset; tried")
    assert str(tmp_path) in message and "tiny_shakespeare" in message and "\n" not in message


def test_a_dataset_that_cannot_be_prepared_says_why(tmp_path):
    with pytest.raises(UserError, match=r"tfds\(dataset='c4/en'.*is not prepared in .*c4/en.*ModuleNotFoundError: .*beam"):
        list(TfdsSource("c4/en", data_dir=str(tmp_path)).documents("train"))


def test_an_unknown_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.source: tfds\(dataset='c4/xx'.*BuilderConfig xx not found"):
        TfdsSource("c4/xx", data_dir=str(tmp_path)).fingerprint()


@pytest.mark.parametrize("field", ["number", "text"])
def test_a_field_that_is_no_text_is_named(data_dir, field):
    with pytest.raises(UserError, match=rf"field '{field}' is not a text of this dataset \(texts: body, title\)"):
        list(TfdsSource("whole", field, data_dir).documents("train"))


@pytest.mark.parametrize("split", ["nope", "train[:"])
def test_an_unknown_split_is_named(data_dir, split):
    with pytest.raises(UserError, match=r"data\.source: .* split '(nope|train\[:)'"):
        list(TfdsSource("whole", "body", data_dir, test=split).documents("test"))
