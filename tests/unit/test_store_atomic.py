import multiprocessing
import os
import time

import pytest

from cyclemimic.errors import InputError
from cyclemimic.store import atomic
from cyclemimic.store.atomic import (
    LEFT_OVER_S,
    alone_in,
    read_json,
    replace_folder,
    sha256_file,
    sha256_json,
    temporary_name,
    write_atomically,
    write_json,
)


def test_a_failing_writer_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    write_atomically(path, b"old")

    def fail(temporary):
        temporary.write_bytes(b"half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_bytes_and_functions_write_the_same(tmp_path):
    write_atomically(tmp_path / "a", b"content")
    write_atomically(tmp_path / "b", lambda path: path.write_bytes(b"content"))
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "ours", b"")
    assert (tmp_path / "plain").stat().st_mode == (tmp_path / "ours").stat().st_mode


def test_what_killed_writers_left_is_swept_after_an_hour_and_nothing_else(tmp_path, monkeypatch):
    old, young = temporary_name(tmp_path / "a.json"), temporary_name(tmp_path / "a.json")
    others = [tmp_path / name for name in ("a.tmp", ".a.tmp", ".a.12-xyz.tmp", "a.json.12-0123abcd.tmp", ".b.parquet")]
    for path in (old, young, *others):
        path.write_bytes(b"half")
    folder = temporary_name(tmp_path / "cache")
    (folder / "deep").mkdir(parents=True)
    link = temporary_name(tmp_path / "link")
    link.symlink_to(others[0])
    for path in (old, *others, folder):
        os.utime(path, (time.time() - 2 * LEFT_OVER_S,) * 2)
    write_atomically(tmp_path / "new.json", b"{}")
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in (young, *others, folder, link)} | {"new.json"}
    os.utime(young, (time.time() - 2 * LEFT_OVER_S,) * 2)
    write_atomically(tmp_path / "new.json", b"{}")
    assert young.exists()  # a folder is looked through once an hour, not at every write
    monkeypatch.setattr(atomic, "_swept_at_s", {})
    write_atomically(tmp_path / "new.json", b"{}")
    assert not young.exists()


def test_replace_folder_puts_the_new_and_removes_the_old(tmp_path):
    for name in ("new", "final"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "who").write_text(name)
    (tmp_path / "final" / "stale").write_text("x")
    replace_folder(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final" / "sub" / "who").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]
    assert not (tmp_path / "final" / "stale").exists()


def test_json_comes_back_and_its_hash_ignores_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "ü"})
    assert read_json(tmp_path / "a.json") == {"a": "ü", "b": [1, 2.5]}
    assert sha256_json({"a": 1, "b": 2}) == sha256_json({"b": 2, "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


@pytest.mark.parametrize("content", [None, b"", b'{"a": ', b"[1]", b"\xff\xfe\x00"])
def test_bad_json_names_the_file(tmp_path, content):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.json"):
        read_json(path)


def _try_to_enter(folder, answer):
    try:
        with alone_in(folder):
            answer.put("entered")
    except InputError:
        answer.put("refused")


def test_a_second_process_is_refused_until_the_first_leaves(tmp_path):
    pytest.importorskip("fcntl")
    context = multiprocessing.get_context("fork")
    answer = context.Queue()

    def other():
        process = context.Process(target=_try_to_enter, args=(tmp_path, answer))
        process.start()
        process.join()
        return answer.get(timeout=10)

    with alone_in(tmp_path):
        assert other() == "refused"
    assert other() == "entered"
