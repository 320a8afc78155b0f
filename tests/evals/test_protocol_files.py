"""Requests and real clips of a protocol from what a person lays out, and what is missing of it."""

import re

import numpy as np
import pytest

from poet.evals import protocol_files
from poet.evals.protocol import Measure, Protocol
from poet.media import images
from poet.tokens import tasks

NONE = Measure(name="none", metrics=("psnr",))


def protocol_of(folder, **more):
    return Protocol(
        **{"name": "bench", "task": "text_to_video", "folder": str(folder)}
        | {"measures": (NONE,)}
        | more
    )


def bring(folder, task="text_to_video", seed=0, **more):
    return protocol_files.bring(protocol_of(folder, **more), tasks.get(task), seed)


def pictures(folder, names):
    for name in names:
        images.write_image(folder / f"{name}.png", np.zeros((8, 8, 3), np.uint8))


def test_captions_come_in_the_order_of_the_file(tmp_path):
    (tmp_path / "captions.txt").write_text("a cat\n\n a dog \nan eel\n")
    found = bring(tmp_path, source="captions", num_requests=2)
    assert [(a.name, a.prompt, a.number) for a in found.asks] == [
        ("000000", "a cat", 0),
        ("000001", "a dog", 1),
    ]
    assert not found.clips and not found.real
    assert len(bring(tmp_path, source="captions").asks) == 3


def test_videos_of_the_test_list_are_drawn_and_give_their_classes_words(tmp_path):
    (tmp_path / "classes.tsv").write_text("Archery\ta person shoots\nSurfing\ta person surfs\n")
    (tmp_path / "test.txt").write_text("Archery/v_1.avi 1\nSurfing/v_1.avi 2\nSurfing/v_2.avi 2\n")
    more = {"source": "classes", "num_requests": 7}
    words = [ask.prompt for ask in bring(tmp_path, **more).asks]
    # Every video once before one comes again.
    for start in (0, 3):
        assert sorted(words[start : start + 3]) == ["a person shoots", *["a person surfs"] * 2]
    assert words == [ask.prompt for ask in bring(tmp_path, **more).asks]
    draws = {tuple(a.prompt for a in bring(tmp_path, seed=s, **more).asks) for s in range(9)}
    assert len(draws) > 1


def test_clips_are_given_with_their_words_and_samples(tmp_path):
    pictures(tmp_path / "real", "ab")
    (tmp_path / "real" / "a.txt").write_text("a cat")
    measure = Measure(name="m", metrics=("psnr",), num_real=None, repeats=2)
    more = {"num_samples": 2, "measures": (measure,)}
    found = bring(tmp_path, task="image_to_video", **more)
    assert [(ask.name, ask.prompt) for ask in found.asks] == [
        ("0_a", "a cat"),
        ("0_b", ""),
        ("1_a", "a cat"),
        ("1_b", ""),
    ]
    assert len({ask.number for ask in found.asks}) == 4
    assert found.asks[0].image.endswith("real/a.png") and set(found.clips) == {"a", "b"}
    # Words that are not wanted, or that the task does not read.
    plain = bring(tmp_path, task="image_to_video", uses_captions=False)
    silent = bring(tmp_path, task="future_prediction")
    assert not any(ask.prompt for ask in plain.asks + silent.asks)


def test_real_clips_are_drawn_once_each_before_they_come_again(tmp_path):
    (tmp_path / "captions.txt").write_text("a cat\n")
    pictures(tmp_path / "real", "abc")
    measure = Measure(name="m", metrics=("psnr",), num_real=7)
    found = bring(tmp_path, source="captions", measures=(measure,), real_may_repeat=True)
    drawn = protocol_files.draw_real(found, 7, seed=0)
    assert len(drawn) == 7 and {"a", "b", "c", "a~2", "b~2", "c~2"} < set(drawn)
    assert drawn["a~2"] == drawn["a"]
    two = protocol_files.draw_real(found, 2, seed=0)
    assert list(two) == list(drawn)[:2]
    assert protocol_files.draw_real(found, 0, seed=0) == {}
    without = bring(tmp_path, source="captions")
    assert protocol_files.draw_real(without, 0, seed=0) == {}


MISSING = [
    ({"source": "captions"}, {}, "bench needs .*captions.txt, a caption a line; there is no such"),
    ({"source": "captions"}, {"captions.txt": "\n"}, "captions.txt is empty"),
    (
        {"source": "captions", "num_requests": 3},
        {"captions.txt": "a\nb"},
        "asks for 3 captions, but .* has 2; bring as many, or ask for fewer",
    ),
    ({"source": "classes"}, {}, "needs .*classes.tsv"),
    ({"source": "classes"}, {"classes.tsv": "A b"}, "expects a class, a tab and its words, got"),
    ({"source": "classes"}, {"classes.tsv": "A\tb"}, "needs .*test.txt"),
    (
        {"source": "classes"},
        {"classes.tsv": "A\tb", "test.txt": "B/v.avi"},
        "videos of class 'B', for which .* has no words",
    ),
    ({}, {}, "holds no media files"),
    ({"mask": "mask.png"}, {"manifest.tsv": "file\tcaption\na.mp4\ta"}, "mask.png; there is no"),
    ({}, {"manifest.tsv": "file\na.mp4"}, "asks with captions, and clip a of .* has none"),
    (
        {"task": "inpainting"},
        {"manifest.tsv": "file\na.mp4"},
        "gives inpainting its clips, .*a.mp4",
    ),
    (
        {"source": "captions", "num_real": 2},
        {"captions.txt": "a"},
        "compares with 2 real clips, and there is no .*real",
    ),
    (
        {"source": "captions", "num_real": 2},
        {"captions.txt": "a", "real/manifest.tsv": "file\na.mp4"},
        "compares with 2 real clips, but .*real has 1; bring",
    ),
]


@pytest.mark.parametrize(("more", "laid", "says"), MISSING)
def test_what_is_missing_is_named(tmp_path, more, laid, says):
    for name, text in laid.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    if "num_real" in more:
        measure = Measure(name="m", metrics=("psnr",), num_real=more.pop("num_real"))
        more["measures"] = (measure,)
    with pytest.raises(ValueError) as error:
        bring(tmp_path, **{"task": "text_to_video"} | more)
    assert re.search(says, str(error.value)) and "\n" not in str(error.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="bench needs its benchmark's files in .*none, and there"):
        bring(tmp_path / "none")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"name": "a/b"}, "needs a name of letters"),
        ({"source": "films"}, "takes requests from captions, classes, clips, got 'films'"),
        ({"num_samples": 0}, "at least 1 sample"),
        ({"num_samples": 2}, "1 repeats of 2 samples; each sample of all requests is a repeat"),
        ({"then": "video_to_audio"}, r"then is a list of names, .* write it as \('video_to_audio'"),
        ({"measures": ()}, "needs measures of different names"),
        ({"measures": (NONE, NONE)}, "needs measures of different names"),
        (
            {"source": "captions", "measures": (Measure(name="m", metrics=("a",), num_real=None),)},
            "compares with the clips that were asked about, but requests come from captions",
        ),
        (
            {"num_requests": 2, "measures": (Measure(name="m", metrics=("a",), num_generated=3),)},
            "takes 3 clips, but only 2 are asked for",
        ),
    ],
)
def test_protocols_that_do_not_hold_together(tmp_path, more, says):
    with pytest.raises(ValueError, match=says):
        protocol_of(tmp_path, **more)


def test_measures_that_do_not_hold_together():
    with pytest.raises(ValueError, match="has no metrics"):
        Measure(name="m", metrics=())
    with pytest.raises(ValueError, match="metrics is a list of names"):
        Measure(name="m", metrics="fvd")
    with pytest.raises(ValueError, match="at least 1 repeat"):
        Measure(name="m", metrics=("fvd",), repeats=0)
