import multiprocessing
import stat

import pytest

from taxonomy.data.storage import build_once, cache_directory, digest, split_of, unit_interval


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TAXONOMY_CACHE", str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    monkeypatch.delenv("TAXONOMY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "taxonomy"


def test_a_directory_is_built_once(tmp_path):
    built = []

    def build(partial):
        built.append(partial)
        (partial / "file").write_text("x")

    for _ in range(2):
        assert build_once(tmp_path / "a" / "b", build) == tmp_path / "a" / "b"
    assert len(built) == 1
    assert (tmp_path / "a" / "b" / "file").read_text() == "x"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == stat.S_IMODE((tmp_path / "a").stat().st_mode)


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(partial):
        (partial / "file").write_text("x")
        raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"):
        build_once(tmp_path / "a", build)
    assert list(tmp_path.iterdir()) == []


def _slow_build(directory, both_started, name):
    def build(partial):
        for part in "xy":
            (partial / part).write_text(name)
            both_started.wait()

    build_once(directory, build)


def test_two_processes_at_once_leave_one_whole_result(tmp_path):
    context = multiprocessing.get_context("fork")
    both_started = context.Barrier(2, timeout=30)
    processes = [context.Process(target=_slow_build, args=(tmp_path / "a", both_started, name)) for name in ("one", "two")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    contents = {(tmp_path / "a" / part).read_text() for part in "xy"}
    assert contents in ({"one"}, {"two"})


def test_digest_tells_parts_apart_and_does_not_change():
    assert digest("a", "b") != digest("ab")
    assert digest(1) != digest("1")
    assert digest("stdlib", 1) == "f1400932bb22286d0236cb64bdc3315f"
    assert digest("\ud800") != digest("\ud801")


def test_splits_have_the_sizes_asked_for_and_stay_put():
    names = [f"file {i}" for i in range(20000)]
    places = [split_of(name, 0.1, 0.2) for name in names]
    assert places.count("validation") == pytest.approx(2000, rel=0.1)
    assert places.count("test") == pytest.approx(4000, rel=0.1)
    assert all(split_of(name, 0.0, 0.0) == "train" for name in names)
    # What was held out must stay held out in later versions.
    assert unit_interval("os.py") == pytest.approx(0.8509487277812795)
