"""A child for the tests of `cyclemimic.data.apart`: it does what it is told, and misbehaves when told so."""

import ctypes
import os
import time

import numpy as np

from cyclemimic.data.apart import Answer, answer_all
from cyclemimic.errors import InputError

answered = 0


def answer(request):
    global answered
    answered += 1
    what = request["what"]
    if what == "crash" or (what == "crash unless fresh" and answered > 1):
        ctypes.string_at(0)
    if what == "hang":
        while True:
            time.sleep(0.01)
    if what == "refuse":
        raise InputError("the file", expected="sense", got="none", remedy="Mend it.")
    if what == "fail":
        raise RuntimeError("a fault of ours")
    if what == "much":
        np.ones(1 << 40, np.uint8)
    print("noise")
    arrays = [np.arange(n, dtype=np.int64)[::-1] for n in request.get("lengths", [])]
    pictures = np.full((3, 400, 500, 3), 7, np.uint8)
    return Answer(facts={"answered": answered, "pid": os.getpid()}, arrays=[pictures, *arrays, np.zeros((0, 2))])


if __name__ == "__main__":
    answer_all(answer)
