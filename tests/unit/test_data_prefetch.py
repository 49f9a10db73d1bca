import threading
import time

import numpy as np
import pytest

from cyclemimic.data.loader import PairLoader
from cyclemimic.data.prefetch import Prefetcher
from cyclemimic.errors import InputError
from tests.unit.data_small import counted_cache


def test_it_gives_what_the_loader_gives_from_any_step_on(tmp_path):
    loader = PairLoader([counted_cache(tmp_path, [9, 20, 7])], 0.8, batch_size=5)
    with Prefetcher(loader.batch, ahead=3) as prefetcher:
        for step in [0, 1, 2, 3, 40, 41, 7, 7, 8]:
            batch, want = prefetcher.batch(step), loader.batch(step)
            np.testing.assert_array_equal(batch.pair, want.pair)
            np.testing.assert_array_equal(batch.now, want.now)


def test_steps_are_made_once_in_order_and_ahead():
    made, reached = [], threading.Event()

    def make(step):
        made.append(step)
        if step == 4:
            reached.set()
        return step

    with Prefetcher(make, ahead=2) as prefetcher:
        assert [prefetcher.batch(step) for step in range(3)] == [0, 1, 2]
        assert reached.wait(5)  # made without being asked for
        assert made == [0, 1, 2, 3, 4]
    with Prefetcher(make, ahead=2, stop=7) as prefetcher:
        assert prefetcher.batch(6) == 6
    assert max(made) == 6


def test_an_error_comes_at_its_step_and_stops_no_other():
    def make(step):
        if step == 2:
            raise InputError("clip 'x'", expected="pixels", got="none", remedy="Look.")
        return step

    with Prefetcher(make) as prefetcher:
        assert [prefetcher.batch(0), prefetcher.batch(1)] == [0, 1]
        for _ in range(2):
            with pytest.raises(InputError, match="clip 'x'"):
                prefetcher.batch(2)
        assert prefetcher.batch(3) == 3


def test_waiting_is_measured_and_work_meanwhile_is_not():
    def make(step):
        time.sleep(0.05)
        return step

    with Prefetcher(make, ahead=1) as prefetcher:
        prefetcher.batch(0)
        first_s = prefetcher.waited_s
        assert first_s >= 0.04
        time.sleep(0.3)
        prefetcher.batch(1)
        assert prefetcher.waited_s - first_s < 0.04


def test_a_jump_drops_what_is_no_longer_wanted():
    made, go = [], threading.Event()

    def make(step):
        made.append(step)
        assert step != 1 or go.wait(5)
        return step

    with Prefetcher(make, ahead=4) as prefetcher:
        prefetcher.batch(0)
        threading.Timer(0.1, go.set).start()  # step 1 is under way, 2 to 4 wait behind it
        assert prefetcher.batch(50) == 50
    assert set(made) <= {0, 1, 50, 51, 52, 53, 54}


def test_it_ends_with_its_thread():
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), Prefetcher(lambda step: step, ahead=4) as prefetcher:
        prefetcher.batch(0)
        raise KeyboardInterrupt
    assert threading.active_count() == before
    with pytest.raises(InputError, match="ahead"):
        Prefetcher(lambda step: step, ahead=0)
