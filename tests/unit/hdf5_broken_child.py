"""The child that reads HDF5, as if its C library crashed or hung over one demonstration."""

import ctypes
import os
import time

import h5py  # noqa: F401  before the clock of the first file runs

from cyclemimic.data.apart import answer_all
from cyclemimic.data.sources.hdf5_demos import answered


def broken(told):
    if told["demo"] == "demo_1":
        if os.environ["BROKEN"] == "crash":
            ctypes.string_at(0)
        time.sleep(60)
    return answered(told)


if __name__ == "__main__":
    answer_all(broken)
