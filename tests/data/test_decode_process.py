import os
import time

import numpy as np
import pytest

from poet.data.decode_process import DecodeLimits, DecodePool
from poet.data.decoding import in_order
from poet.media.errors import MediaError

# The functions run in other processes, which find them by name.


def squares(count):
    for number in range(count):
        yield number * number


def hang():
    yield 1
    time.sleep(600)


def die():
    yield 1
    os._exit(7)


def hog():
    yield 1
    yield np.ones(2**31, np.uint8).sum()


def endless():
    while True:
        yield 1


def fail():
    yield 1
    raise MediaError("no good")


@pytest.fixture(scope="module")
def pool():
    limits = DecodeLimits(clip_s=1.5, memory_mb=1024, max_clips=50)
    with DecodePool(limits) as made:
        list(made.items(squares, 1))  # starts the server, which takes a second
        yield made


def test_items_come_as_the_function_yields_them(pool):
    assert list(pool.items(squares, 4)) == [0, 1, 4, 9]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (hang, "decoding gave nothing for .* s .limits: 2 s a clip"),
        (die, r"the decoder died .exit code 7"),
        (hog, "needs more memory than the limit"),
        (endless, "50 clips, and more to come"),
        (fail, "no good"),
    ],
)
def test_what_goes_wrong_ends_the_row_and_nothing_else(function, message, pool):
    items = pool.items(function)
    assert next(items) == 1
    with pytest.raises(MediaError, match=message):
        list(items)
    assert list(pool.items(squares, 3)) == [0, 1, 4]


def test_other_errors_say_where_they_come_from(pool):
    with pytest.raises(RuntimeError, match="range(.|\n)*TypeError"):
        list(pool.items(squares, "four"))


def test_rows_beside_a_hanging_one_are_whole():
    def job(function, *arguments):
        return lambda: pool.items(function, *arguments)

    with DecodePool(DecodeLimits(clip_s=2.0)) as pool:
        jobs = [job(squares, 20), job(hang), job(squares, 30)]
        found = list(in_order(jobs, 2))
    assert [item for number, item in found if number == 0] == [n * n for n in range(20)]
    assert [item for number, item in found if number == 2] == [n * n for n in range(30)]
    (one, error) = [item for number, item in found if number == 1]
    assert one == 1 and isinstance(error, MediaError)


def test_no_process_stays_behind():
    with DecodePool(DecodeLimits()) as pool:
        list(pool.items(squares, 3))
        (worker,) = pool._workers
        assert worker.process.is_alive()
    assert not worker.process.is_alive()


def test_refusals():
    with pytest.raises(ValueError, match="DecodeLimits.clip_s must be positive, got 0"):
        DecodeLimits(clip_s=0)
