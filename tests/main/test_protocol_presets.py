"""The files of gin/protocols say what the paper says, and name each piece that is not there.

The table is the evaluation section of the VideoPoet paper (arXiv 2312.14125) and its appendices.
"""

import re

import gin
import pytest

from poet.evals import protocol_files
from poet.main import commands
from poet.tokens import tasks

# file -> (what each of its protocols is, what each of its measures is)
PAPER = {
    "msrvtt": (
        {
            "msrvtt": {
                "task": "text_to_video",
                "source": "captions",
                "num_requests": 59_794,
                "num_samples": 1,
                # 17 are made, the last is dropped; 128 px become 256.
                "num_frames": 16,
                "size_px": 256,
                # The middle of each real file at its own rate.
                "real_frames_per_second": None,
                "real_is_central": True,
                "real_may_repeat": False,
            }
        },
        {
            "clipsim": {"metrics": ("clipsim",), "num_generated": 0, "num_real": 0, "repeats": 1},
            "fvd": {
                "metrics": ("fvd",),
                "num_generated": 20 * 2_048,
                "num_real": 2_048,
                "repeats": 20,
            },
        },
    ),
    "ucf101": (
        {
            "ucf101": {
                "task": "text_to_video",
                "source": "classes",
                "num_requests": 10_000,
                "num_samples": 1,
                "num_frames": 16,
                "size_px": 256,
                "real_frames_per_second": None,
                "real_is_central": True,
            }
        },
        {
            "clips": {
                "metrics": ("fvd", "is"),
                "num_generated": 0,
                "num_real": 10_000,
                "repeats": 1,
            }
        },
    ),
    "k600_prediction": (
        {
            "k600_prediction": {
                "task": "future_prediction_5",
                "source": "clips",
                "uses_captions": False,
                "num_requests": 50_000,
                "num_samples": 4,
                "num_frames": 16,
                "size_px": 128,
            }
        },
        {"fvd": {"metrics": ("fvd",), "num_generated": 0, "num_real": None, "repeats": 4}},
    ),
    "ssv2_painting": (
        {
            name: {
                "task": task,
                "mask": mask,
                "source": "clips",
                "uses_captions": False,
                "num_requests": 50_000,
                "num_samples": 1,
                "num_frames": 16,
                "size_px": 128,
            }
            for name, task, mask in (
                ("ssv2_inpainting", "inpaint", "inpaint_central"),
                ("ssv2_outpainting", "outpaint", "outpaint_central"),
            )
        },
        {"fvd": {"metrics": ("fvd",), "num_generated": 0, "num_real": None, "repeats": 1}},
    ),
    "davis_stylization": (
        {
            "davis_stylization": {
                "task": "stylize",
                "source": "clips",
                "uses_captions": True,
                "num_requests": 20 * 2,
                "num_samples": 1,
                "num_frames": 16,
                "size_px": 256,
            }
        },
        {"clipsim": {"metrics": ("clipsim",), "num_generated": 0, "num_real": 0, "repeats": 1}},
    ),
    # Ours: all 17 frames, at the model's size, of every held-out clip.
    "shapes_world": (
        {
            name: {
                "task": task,
                "then": then,
                "source": "clips",
                "split": "held_out",
                "num_requests": 0,
                "num_samples": 1,
                "num_frames": 17,
                "size_px": 0,
                "real_frames_per_second": 8.0,
            }
            for name, task, then in (
                ("shapes_text_to_video", "text_to_video", ("video_to_audio",)),
                ("shapes_continuation", "future_prediction", ()),
            )
        },
        {"words": {"num_real": None, "repeats": 1}, "law": {"num_real": None, "repeats": 1}},
    ),
}


@pytest.fixture(autouse=True)
def clean_gin():
    yield
    gin.clear_config()


def evaluation(name, **macros):
    """What a file configures, with macros bound."""
    from poet.evals.checkpoint_evaluation import CheckpointEvaluation

    macros = {"CHECKPOINT": "x", "TOKENIZERS": "x", "CLIPS": "x"} | macros
    bound = [f"{macro} = {value!r}" for macro, value in macros.items()]
    commands.read_gin([f"gin/protocols/{name}.gin"], bound)
    return commands.call_configured(CheckpointEvaluation)


def facts_of(thing, names):
    return {name: getattr(thing, name) for name in names}


@pytest.mark.parametrize("name", PAPER)
def test_details_are_those_of_the_paper(name):
    protocols, measures = PAPER[name]
    found = {one.name: one for one in evaluation(name).protocols}
    assert found.keys() == protocols.keys()
    for protocol, details in protocols.items():
        assert facts_of(found[protocol], details) == details
    made = {measure.name: measure for one in found.values() for measure in one.measures}
    assert made.keys() == measures.keys()
    for measure, details in measures.items():
        assert facts_of(made[measure], details) == details


def test_papers_guide_where_words_are_asked_for():
    """How much is not told; what is not asked in words is not guided."""
    for name in PAPER:
        guidance = evaluation(name).sampling.guidance
        assert (guidance > 1) == (name in ("msrvtt", "ucf101", "shapes_world"))


GOATS = "clip_id\tfile\tcaption\tstart_s\n0\tgoat.mp4\ta sheep\t0.5\n"
CIRCLES = "file\tclip_id\tsplit\tcaption\nheld_out/a.mp4\ta\theld_out\ta circle\n"
# What a person lays out of each file, in small, and macros that ask for as little.
LAID = {
    "msrvtt": (
        {"captions.txt": "a\nb\n", "real/a.mp4": "", "real/b.mp4": ""},
        {"NUM_REQUESTS": 2, "NUM_GENERATED": 2, "NUM_REAL": 2, "REPEATS": 1},
    ),
    "ucf101": (
        {"classes.tsv": "A\ta cat\n", "test.txt": "A/v_1.avi 1\n", "real/a.mp4": ""},
        {"NUM_REQUESTS": 2, "NUM_REAL": 2},
    ),
    "k600_prediction": ({"real/a.mp4": "", "real/b.mp4": ""}, {"NUM_REQUESTS": 2}),
    "ssv2_painting": ({"real/a.mp4": "", "real/b.mp4": ""}, {"NUM_REQUESTS": 2}),
    "davis_stylization": (
        {"manifest.tsv": GOATS, "goat.mp4": ""},
        {"NUM_REQUESTS": 1},
    ),
    "shapes_world": (
        {"manifest.tsv": CIRCLES, "held_out/a.mp4": ""},
        {},
    ),
}  # fmt: skip
# What is taken away -> what is said of it. test_evaluate_checkpoint.py takes away weights, and the
# prompts of DAVIS, which CLIPSIM asks for.
MISSING = [
    ("msrvtt", "captions.txt", "msrvtt needs .*captions.txt, a caption a line; there is no such"),
    ("msrvtt", "real/b.mp4", "compares with 2 real clips, but .*real has 1; bring as many"),
    ("msrvtt", "real/", "compares with 2 real clips, and there is no .*real; lay them there"),
    ("ucf101", "classes.tsv", "ucf101 needs .*classes.tsv, a class, a tab and its words a line"),
    ("ucf101", "test.txt", "ucf101 needs .*test.txt, the test list, CLASS/FILE a line; there is"),
    ("ucf101", "real/", "compares with 2 real clips, and there is no .*real; lay them there"),
    ("k600_prediction", "real/b.mp4", "asks for 2 clips, but .* has 1; bring as many, or ask for"),
    ("k600_prediction", "real/", "holds no media files and no manifest.tsv"),
    ("ssv2_painting", "real/b.mp4", "asks for 2 clips, but .* has 1; bring as many, or ask for"),
    ("ssv2_painting", "real/", "holds no media files and no manifest.tsv"),
    ("davis_stylization", "goat.mp4", "gives stylization its clips, .*goat.mp4 of clip 0 is not"),
    ("shapes_world", "manifest.tsv", "holds no media files and no manifest.tsv"),
]  # fmt: skip


def brought(name, folder):
    macros = LAID[name][1] | {"CLIPS": str(folder)}
    words = {"inpaint": "inpainting", "outpaint": "outpainting", "stylize": "stylization"}
    return [
        protocol_files.bring(one, tasks.get(words.get(one.task, one.task)), seed=0)
        for one in evaluation(name, **macros).protocols
    ]


def lay(name, folder, without=""):
    folder.mkdir()
    for path, text in LAID[name][0].items():
        if not (without and path.startswith(without)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)


@pytest.mark.parametrize("name", LAID)
def test_a_layout_as_the_file_says_it_is_found(name, tmp_path):
    lay(name, tmp_path / "x")
    for found in brought(name, tmp_path / "x"):
        assert found.asks and all(ask.name for ask in found.asks)
        if name == "davis_stylization":
            assert (found.asks[0].prompt, found.asks[0].start_s) == ("a sheep", 0.5)
        if name in ("k600_prediction", "ssv2_painting"):
            assert not any(ask.prompt for ask in found.asks)


@pytest.mark.parametrize(("name", "without", "says"), MISSING)
def test_each_piece_that_is_missing_is_named(name, without, says, tmp_path):
    lay(name, tmp_path / "x", without)
    with pytest.raises(ValueError) as error:
        brought(name, tmp_path / "x")
    assert re.search(says, str(error.value)) and "\n" not in str(error.value)
