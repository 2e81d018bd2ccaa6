import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from taxonomy.data import sources
from taxonomy.data.sources import SPLITS, JsonLinesSource, TextSource
from taxonomy.errors import UserError
from taxonomy.registry import create


def everything(source):
    return {split: list(source.documents(split)) for split in SPLITS}


def together(found):
    return sorted(text for texts in found.values() for text in texts)


def test_expressions_make_sources():
    assert create("source", "text(glob='a/*.txt')", where="data.source") == TextSource("a/*.txt")
    assert create("source", "jsonl(glob='a', field='body', test=0.1)", where="data.source") == JsonLinesSource(
        "a", "body", 0.05, 0.1
    )
    with pytest.raises(UserError, match=r"data\.source.*validation=0\.9 and test=0\.2"):
        create("source", "text(glob='a', validation=0.9, test=0.2)", where="data.source")


class TestStandardLibrary:
    def test_documents_are_the_files(self):
        root = sysconfig.get_path("stdlib")
        found = everything(create("source", "stdlib()", where="data.source"))
        texts = [text for split in SPLITS for text in found[split]]
        assert len(texts) == len(set(texts)) > 400
        for name in ("os.py", "json/decoder.py", "this.py"):
            assert Path(root, name).read_bytes().decode() in texts
        assert Path(root, "test", "test_json", "test_decode.py").exists() is False or (
            Path(root, "test", "test_json", "test_decode.py").read_text() not in texts
        )
        for split in ("validation", "test"):
            assert 0.02 < len(found[split]) / len(texts) < 0.08
        assert sum(map(len, texts)) > 5e6

    def test_order_and_fingerprint_are_stable(self):
        one, two = sources.StandardLibrarySource(), sources.StandardLibrarySource()
        assert list(one.documents("test")) == list(two.documents("test"))
        assert one.fingerprint() == two.fingerprint()

    def test_what_is_left_out(self, tmp_path):
        files = {
            "b.py": "b = 1\n",
            "a.py": "a = 1\n",
            "copy_of_a.py": "a = 1\n",
            "empty.py": "",
            "package/c.py": "c\r\n\tc\n",
            "readme.txt": "no",
            "test/test_a.py": "no 1",
            "package/tests/test_c.py": "no 2",
            "site-packages/other.py": "no 3",
            "idlelib/idle_test/test_idle.py": "no 4",
            "_sysconfigdata__linux_.py": "no 5",
        }
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text.encode())
        (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
        expected = [("a.py", "a = 1\n"), ("b.py", "b = 1\n"), ("package/c.py", "c\r\n\tc\n")]
        assert sources.standard_library_files(str(tmp_path)) == expected
        before = sources._standard_library_fingerprint(str(tmp_path))
        sources._standard_library_fingerprint.cache_clear()
        assert sources._standard_library_fingerprint(str(tmp_path)) == before
        (tmp_path / "b.py").write_text("b = 2\n")
        sources._standard_library_fingerprint.cache_clear()
        assert sources._standard_library_fingerprint(str(tmp_path)) != before

    def test_neither_tensorflow_nor_torch_is_imported_and_the_import_is_light(self):
        program = (
            "import sys, taxonomy.data, taxonomy.data.sources as s\n"
            "heavy = {'jax', 'grain', 'tensorflow_datasets', 'sentencepiece'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
            "next(s.StandardLibrarySource().documents('test'))\n"
            "assert not {'tensorflow', 'torch'} & set(sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", program], check=True)


class TestText:
    def test_every_file_is_in_one_split(self, corpus, documents):
        found = everything(TextSource(f"{corpus}/**/*.txt", validation=0.1, test=0.2))
        assert together(found) == sorted(documents)
        assert 5 < len(found["validation"]) < 40 and 20 < len(found["test"]) < 60

    def test_splits_and_fingerprint_do_not_depend_on_where_the_corpus_is(self, corpus, tmp_path):
        shutil.copytree(corpus, tmp_path / "moved")
        before, after = TextSource(f"{corpus}/**/*.txt"), TextSource(f"{tmp_path}/moved/**/*.txt")
        assert everything(before) == everything(after)
        assert before.fingerprint() == after.fingerprint()

    def test_fingerprint_follows_content_and_settings(self, tmp_path):
        for name in "ab":
            (tmp_path / name).write_text("text")
        pattern = f"{tmp_path}/*"
        fingerprints = {TextSource(pattern).fingerprint(), TextSource(pattern, test=0.5).fingerprint()}
        os.utime(tmp_path / "a", ns=(1, 1))
        fingerprints.add(TextSource(pattern).fingerprint())
        (tmp_path / "a").write_text("other text")
        fingerprints.add(TextSource(pattern).fingerprint())
        assert len(fingerprints) == 4

    @pytest.mark.parametrize("count", range(2, 12))
    def test_few_files_still_fill_train_and_validation(self, tmp_path, count):
        for number in range(count):
            (tmp_path / f"{number}").write_text(f"text {number}")
        for validation in (0.01, 0.99):
            found = everything(TextSource(f"{tmp_path}/*", validation=validation))
            assert found["train"] and found["validation"] and not found["test"]
            assert sum(map(len, found.values())) == count
        if count > 2:
            assert all(everything(TextSource(f"{tmp_path}/*", validation=0.01, test=0.01)).values())
        assert len(everything(TextSource(f"{tmp_path}/*", validation=0.0))["train"]) == count

    def test_one_file_is_cut_at_paragraphs(self, tmp_path):
        paragraphs = [f"Paragraph {number}\nof two lines, café.\n\n" for number in range(400)]
        (tmp_path / "book.txt").write_text("".join(paragraphs))
        found = everything(TextSource(f"{tmp_path}/book.txt", validation=0.1, test=0.05))
        parts = [found[split] for split in SPLITS]
        assert [len(part) for part in parts] == [1, 1, 1]
        whole = "".join(part[0] for part in parts)
        assert whole == "".join(paragraphs)
        assert all(part[0].endswith("\n\n") and part[0].startswith("Paragraph") for part in parts)
        assert len(parts[1][0]) / len(whole) == pytest.approx(0.1, abs=0.01)
        assert len(parts[2][0]) / len(whole) == pytest.approx(0.05, abs=0.01)

    @pytest.mark.parametrize("text", ["one line " * 50 + "\n", "é" * 333, "\n\n".join("abcdefgh") * 9, "日本" * 50 + "\n\n"])
    @pytest.mark.parametrize(("validation", "test"), [(0.05, 0.0), (0.1, 0.1), (0.0, 0.3), (0.0, 0.0)])
    def test_one_file_of_any_shape_is_cut_without_loss(self, text, validation, test):
        parts = sources.cut_text(text, validation, test)
        assert parts["train"] + parts["validation"] + parts["test"] == text
        assert bool(parts["validation"]) == (validation > 0) and bool(parts["test"]) == (test > 0)

    def test_line_ends_are_kept_and_empty_files_left_out(self, tmp_path):
        (tmp_path / "a").write_bytes(b"one\r\ntwo\rthree\n")
        (tmp_path / "b").write_bytes(b"")
        (tmp_path / "c").write_bytes(b"\n")
        assert together(everything(TextSource(f"{tmp_path}/*"))) == ["\n", "one\r\ntwo\rthree\n"]

    def test_the_home_directory_is_expanded(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "a.txt").write_text("at home " * 100)
        assert "at home" in next(TextSource("~/*.txt").documents("train"))

    def test_no_file_is_an_error(self, tmp_path):
        (tmp_path / "folder").mkdir()
        for use in (lambda s: list(s.documents("train")), lambda s: s.fingerprint()):
            with pytest.raises(UserError, match=r"data\.source: text\(glob='.*/\*'\) matches no file"):
                use(TextSource(f"{tmp_path}/*"))

    def test_a_file_that_is_not_text_is_an_error(self, tmp_path):
        (tmp_path / "a").write_bytes(b"ok \xff")
        with pytest.raises(UserError, match=r"/a: not UTF-8 text: invalid start byte at byte 3"):
            list(TextSource(f"{tmp_path}/*").documents("train"))


class TestJsonLines:
    def write(self, path, lines):
        path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)

    def test_every_line_is_in_one_split_and_equal_texts_are_together(self, tmp_path, documents):
        lines = [json.dumps({"id": number, "body": text}) for number, text in enumerate(documents + documents)]
        source = JsonLinesSource(self.write(tmp_path / "a.jsonl", [*lines, "", " "]), "body", validation=0.2, test=0.2)
        found = everything(source)
        assert together(found) == sorted(documents + documents)
        assert all(len(texts) > 20 for texts in found.values())
        assert not set(found["train"]) & set(found["validation"])

    def test_texts_survive(self, tmp_path):
        texts = ["tab\t\u2028 line", "日本語 \x00", "\\n"]
        glob = self.write(tmp_path / "a", [json.dumps({"text": text}) for text in texts])
        assert list(JsonLinesSource(glob, validation=0.0).documents("train")) == texts

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("{'text': 1}", r"/a:2: not a line of JSON: "),
            ("[1]", r"/a:2: a JSON list; jsonl takes an object with the field 'text'"),
            ('{"body": "x", "id": 1}', r"/a:2: no field 'text' \(the line has: body, id\)"),
            ('{"text": 3}', r"/a:2: field 'text' is int, not a string"),
            ('{"text": "\\ud800"}', r"/a:2: field 'text' is not valid Unicode"),
        ],
    )
    def test_a_bad_line_is_named(self, tmp_path, line, message):
        source = JsonLinesSource(self.write(tmp_path / "a", ['{"text": "good"}', line]), validation=0.0)
        with pytest.raises(UserError, match=r"data\.source: .*" + message) as caught:
            list(source.documents("train"))
        assert "\n" not in str(caught.value)

    def test_no_file_is_an_error(self, tmp_path):
        with pytest.raises(UserError, match=r"jsonl\(glob="):
            JsonLinesSource(f"{tmp_path}/*.jsonl").fingerprint()

    def test_fingerprint_follows_the_field(self, tmp_path):
        glob = self.write(tmp_path / "a", ['{"text": "x"}'])
        assert JsonLinesSource(glob).fingerprint() != JsonLinesSource(glob, "body").fingerprint()
