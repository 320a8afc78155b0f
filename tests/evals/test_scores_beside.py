"""Scores of several runs side by side, by hand."""

from poet.evals import scores_beside


def scores(values, timed=()):
    rows = [{"task": t, "score": s, "value": v} for (t, s), v in values.items()]
    names = ("asked", "task", "batch", "passes", "seconds")
    return {"rows": rows, "decoding": [dict(zip(names, row, strict=True)) for row in timed]}


RASTER = scores(
    {("video", "motion"): 0.9, ("video", "speed"): 0.8},
    [("video", "text_to_video", 32, 1200, 6.0), ("sound", "video_to_audio", 32, 300, 2.0)],
)
DIAGONAL = scores(
    {("video", "motion"): 0.75, ("video", "speed"): 0.8},
    [("video", "text_to_video", 32, 200, 2.0), ("sound", "video_to_audio", 32, 300, 2.0)],
)
ADAPTED = scores(
    {("video", "motion"): 0.95, ("picture", "colour"): 1.0},
    [
        ("video", "text_to_video", 32, 200, 1.0),
        ("sound", "video_to_audio", 32, 300, 1.0),
        ("picture", "text_to_image", 32, 16, 0.5),
    ],
)
DRAWN = """\
| task | score | raster | diagonal | change | adapted | change |
|---|---|---|---|---|---|---|
| video | motion | 0.900 | 0.750 | -0.150 | 0.950 | +0.050 |
| video | speed | 0.800 | 0.800 | +0.000 |  |  |
| picture | colour |  |  |  | 1.000 |  |

One batch of each of 2 programs that all runs have timed:

- raster: 1,500 passes (1.00 times fewer), 8.00 s (1.00 times faster)
- diagonal: 500 passes (3.00 times fewer), 4.00 s (2.00 times faster)
- adapted: 500 passes (3.00 times fewer), 2.00 s (4.00 times faster)
"""


def test_the_table():
    got = scores_beside.table({"raster": RASTER, "diagonal": DIAGONAL, "adapted": ADAPTED})
    assert got.startswith(DRAWN)
    assert (
        "| video | text_to_video | 32 | 1,200 | 6.00 | 200 | 2.00 | 200 | 1.00 |\n"
        "| sound | video_to_audio | 32 | 300 | 2.00 | 300 | 2.00 | 300 | 1.00 |\n"
        "| picture | text_to_image | 32 |  |  |  |  | 16 | 0.50 |\n"
    ) in got


def test_scores_without_times_are_older():
    older = {"rows": RASTER["rows"]}
    got = scores_beside.table({"raster": older, "diagonal": DIAGONAL})
    assert "No program was timed in all of these runs." in got
    assert "| video | motion | 0.900 | 0.750 | -0.150 |" in got
