import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cyclemimic.data.apart import LostReaderError, Reader, reader
from cyclemimic.errors import InputError

CHILD = "tests.unit.apart_child"


@pytest.fixture
def child(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    child = Reader(CHILD, memory_bytes=4 << 30)
    yield child
    child.close()


def ask(child, what="count", patience_s=20.0, **more):
    return child.ask({"what": what, **more}, where="a file", patience_s=patience_s)


def test_numbers_come_as_they_are_and_one_child_answers_all(child):
    answers = [ask(child, lengths=[5, 0]) for _ in range(3)]
    assert [a.facts["answered"] for a in answers] == [1, 2, 3]  # though each prints something too
    pictures, down, none, empty = answers[2].arrays
    assert pictures.shape == (3, 400, 500, 3) and pictures.dtype == np.uint8 and (pictures == 7).all()
    np.testing.assert_array_equal(down, [4, 3, 2, 1, 0])
    assert none.shape == (0,) and empty.shape == (0, 2) and empty.dtype == np.float64
    pictures[0] = 1  # it is the caller's own


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("crash", "a file: expected a file that can be read, got its reader died .*SIGSEGV"),
        ("fail", "exit status 1, RuntimeError: a fault of ours"),
        ("much", "Unable to allocate|MemoryError"),
    ],
)
def test_a_child_that_dies_costs_one_error_that_says_how(child, what, message):
    ask(child)
    with pytest.raises(LostReaderError, match=message):
        ask(child, what)
    assert ask(child).facts["answered"] == 1


def test_a_child_that_hangs_is_given_up(child):
    ask(child)
    began_s = time.monotonic()
    with pytest.raises(LostReaderError, match=r"a file: expected an answer within .* s, got none"):
        ask(child, "hang", patience_s=1.0)
    assert time.monotonic() - began_s < 10
    assert ask(child).facts["answered"] == 1


def test_an_error_of_the_input_comes_as_it_was_and_ends_no_child(child):
    for _ in range(2):
        with pytest.raises(InputError, match="the file: expected sense, got none") as error:
            ask(child, "refuse")
        assert type(error.value) is InputError
    assert ask(child).facts["answered"] == 3


def test_what_an_earlier_file_did_to_the_child_is_not_the_next_ones_fault(child):
    ask(child)
    assert ask(child, "crash unless fresh").facts["answered"] == 1
    pid = ask(child).facts["pid"]
    os.kill(pid, signal.SIGKILL)  # as the system does when memory runs out
    assert ask(child).facts["pid"] != pid


def test_threads_take_turns(child):
    lengths, found = range(3, 11), {}

    def work(n):
        found[n] = len(ask(child, lengths=[n]).arrays[1])

    threads = [threading.Thread(target=work, args=(n,)) for n in lengths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: n for n in lengths}


def test_a_forked_process_has_a_child_of_its_own(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    mine = reader(CHILD, memory_bytes=4 << 30)
    assert reader(CHILD, memory_bytes=4 << 30) is mine
    pid = ask(mine).facts["pid"]
    into, out = os.pipe()
    forked = os.fork()
    if forked == 0:
        other = reader(CHILD, memory_bytes=4 << 30)
        os.write(out, f"{ask(other).facts['pid']}".encode())
        mine.close()  # which must not end ours
        other.close()
        os._exit(0)
    os.waitpid(forked, 0)
    assert int(os.read(into, 100)) != pid == ask(mine).facts["pid"]
    mine.close()


def test_the_child_ends_with_its_parent(child):
    pid = ask(child).facts["pid"]
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
