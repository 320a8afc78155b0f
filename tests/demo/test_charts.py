"""SVG pictures of the report."""

import re

import numpy as np

from poet.demo import charts


def test_a_line_has_its_points_where_the_axes_say():
    svg = charts.curves({"loss": [(0, 4.0), (10, 2.0)]}, y_label="nats")
    points = re.search(r'points="([^"]*)"', svg).group(1).split()
    # The first value is the largest and the second the smallest: corners of the frame.
    assert points == ["56.0,28.0", "480.0,226.0"]


def test_points_that_are_not_numbers_are_left_out():
    svg = charts.curves({"loss": [(0, 1.0), (1, float("nan")), (2, 3.0)]}, y_label="nats")
    assert len(re.search(r'points="([^"]*)"', svg).group(1).split()) == 2


def test_no_points_say_so():
    assert charts.curves({"loss": []}, y_label="nats") == "<p>No nats was recorded.</p>"


def test_names_cannot_break_the_page():
    svg = charts.curves({"<script>": [(0, 1.0), (1, 2.0)]}, y_label="a & b")
    assert "<script>" not in svg and "a &amp; b" in svg


def test_a_waveform_is_as_high_as_its_loudest_sample():
    sound = np.zeros(512)
    sound[300] = -0.5
    svg = charts.waveform(sound, width_px=4, height_px=40)
    # Columns of 128 samples; half of full scale reaches half of the 20 px above the middle.
    assert "M2 10.0V30.0" in svg and "M0 19.5V20.5" in svg
