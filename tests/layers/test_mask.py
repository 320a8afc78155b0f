import numpy as np
import pytest

from poet.layers import mask


def picture(text):
    return np.array([[c != "." for c in line.split()] for line in text.strip().splitlines()])


DRAWING = """
    p p p . . .
    p p p . . .
    p p p . . .
    p p p t . .
    p p p t t .
    p p p t t t
"""


def test_prefix_is_full_and_output_causal():
    np.testing.assert_array_equal(mask.prefix_lm_mask(6, 3), picture(DRAWING))


def test_the_docstring_shows_it():
    drawn = [line.strip() for line in DRAWING.strip().splitlines()]
    shown = [line.strip() for line in mask.prefix_lm_mask.__doc__.splitlines()]
    assert drawn == [line for line in shown if line[:2] == "p "]


@pytest.mark.parametrize("prefix", [0, 1])
def test_without_prefix_it_is_causal(prefix):
    np.testing.assert_array_equal(mask.prefix_lm_mask(4, prefix), np.tril(np.ones((4, 4), bool)))
