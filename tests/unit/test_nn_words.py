import os
import subprocess
import sys

import numpy as np
import pytest

from cyclemimic.errors import InputError
from cyclemimic.nn.words import PADDING, WordHash


def test_words_are_numbers_that_case_and_commas_do_not_change():
    one = WordHash(length=7)
    numbers = one("Push the red block, left")
    assert numbers.shape == (7,) and numbers.dtype == np.int64
    assert (numbers[:5] > 0).all() and (numbers[:5] < 4096).all() and (numbers[5:] == PADDING).all()
    np.testing.assert_array_equal(numbers, one("push THE red... block left!"))
    assert (numbers[:5] != one("pull a blue cube right")[:5]).all()
    assert one("the the")[0] == one("the the")[1]


def test_a_missing_sentence_is_padding_and_a_long_one_is_cut():
    one = WordHash(length=3)
    assert one(None).tolist() == one("").tolist() == one(" ?! ").tolist() == [0, 0, 0]
    np.testing.assert_array_equal(one("a b c d e"), one("a b c"))


def test_every_number_is_used_and_none_is_padding():
    one = WordHash(vocabulary=11, length=1)
    seen = {int(one(f"word{i}")[0]) for i in range(400)}
    assert seen == set(range(1, 11))


def test_the_numbers_are_the_same_in_another_process():
    code = "from cyclemimic.nn.words import WordHash; print(WordHash(length=4)('schiebe den Würfel').tolist())"
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] == f"{WordHash(length=4)('schiebe den Würfel').tolist()}\n"


@pytest.mark.parametrize("bad", [{"vocabulary": 1}, {"length": 0}])
def test_sizes_that_hold_no_word_are_refused(bad):
    with pytest.raises(InputError, match="WordHash"):
        WordHash(**bad)
