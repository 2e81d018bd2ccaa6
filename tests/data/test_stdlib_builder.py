import tensorflow_datasets as tfds

from taxonomy.data import stdlib_builder

DOCUMENTS = {
    "train": [("z.py", "é\x00\n\t"), *((f"{number}.py", f"text {number}") for number in range(20))],
    "validation": [("v.py", "held out")],
}


def test_examples_come_back_in_order_without_the_code_and_without_noise(tmp_path, capfd):
    stdlib_builder.write(tmp_path, DOCUMENTS)
    for split, expected in DOCUMENTS.items():
        source = stdlib_builder.read(tmp_path, split)
        assert [(source[i]["path"].decode(), source[i]["text"].decode()) for i in range(len(source))] == expected
    assert capfd.readouterr() == ("", "")
    builder = tfds.builder("standard_library", data_dir=tmp_path)
    assert builder.info.file_format.value == "array_record"
    assert builder.info.splits["train"].num_examples == 21


def test_a_prepared_copy_may_be_moved(tmp_path):
    stdlib_builder.write(tmp_path / "partial", DOCUMENTS)
    (tmp_path / "partial").rename(tmp_path / "whole")
    assert len(stdlib_builder.read(tmp_path / "whole", "train")) == 21
