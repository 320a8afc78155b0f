import dataclasses
import re

import numpy as np
import pytest

from poet.data import groups, records, registry, writer
from poet.evals import task_view
from poet.tokenizers.text import ByteTokenizer
from poet.tokens.clip import ClipShape, SoundShape
from poet.tokens.vocabulary import Vocabulary

TEXT = ByteTokenizer(16)
CLIP = ClipShape(17, 16, 16)
SIZES = groups.SequenceSizes(
    clip=CLIP,
    sound=SoundShape.for_clip(CLIP, 2),
    text_slots=16,
    vocabulary=Vocabulary(num_visual=64, audio_levels=(16, 16), num_text=259),
)


@dataclasses.dataclass
class Grey:
    """Decodes a code to its level; notes what it was asked."""

    asked: list

    def decode(self, codes):
        self.asked.append(codes.shape)
        frames = 1 + 4 * (codes.shape[1] - 1)
        return np.full((1, frames, 16, 16, 3), codes.mean() / 64)


@dataclasses.dataclass
class Tone:
    sample_rate_hz: int = 16_000

    def decode(self, codes):
        return np.zeros((1, codes.shape[2] * 320))


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    made = [
        {
            "clip_id": f"clip_{index}",
            "caption": f"a <b>bold</b> caption {index}",
            "visual": rng.integers(0, 64, (5, 2, 2)),
            "audio": rng.integers(0, 16, (2, 106)),
            "num_frames": 17,
            "has_audio": 1,
            "masked": rng.integers(0, 64, (5, 2, 2)),
            "region": "inpaint_central" if index else "outpaint_central",
        }
        for index in range(3)
    ]
    writer.write_dataset(tmp_path / "ds", {"train": made}, {"fingerprints": {}})
    return records.open_dataset(tmp_path / "ds")


def sized(dataset, name):
    registry.load_task_modules(["tasks.paper", "tasks.mixtures"])
    (task,) = groups.size_task(registry.get(name), dataset, SIZES)
    return task


def test_terminal_shows_every_run_and_its_ids(dataset):
    task = sized(dataset, "poet_inpainting")
    one, two = task_view.examples(dataset, task, TEXT, "train", 9)
    assert (one.index, two.index) == (1, 2), "records with the task's kind of region"
    lines = task_view.terminal(task.plan, one, is_coloured=False)
    assert lines[0].startswith(
        "record 1, clip_1: 'a <b>bold</b> caption 1', region inpaint_central"
    )
    record = dataset.read("train", 1)
    masked = (record["masked"].ravel() + 256).tolist()
    assert any(f"masked 0:5 [prefix]: {' '.join(map(str, masked))}" in line for line in lines)
    assert any("visual 0:5 [output, loss on 20]" in line for line in lines)
    coloured = task_view.terminal(task.plan, one, is_coloured=True)
    assert re.sub("\033.*?m", "", "\n".join(coloured[1:])) == "\n".join(lines[1:])


def test_page_shows_every_token_with_its_meaning(dataset):
    task = sized(dataset, "poet_audio_video_continuation")
    shown = task_view.examples(dataset, task, TEXT, "train", 2)
    visual = Grey([])
    page = task_view.page(task.plan, shown, title="a < b", visual=visual, audio=Tone())
    positions = re.findall(r"title='position (\d+)", page)
    assert sorted(map(int, positions)) == sorted(2 * list(range(task.plan.length)))
    assert page.count("class=loss") + page.count("chip loss") == 2 * task.plan.loss_weights.sum()
    code = int(shown[0].fields["audio"][1, 7])
    assert f"audio frame 7, level 1, code {code} of audio_1'" in page
    assert "a &lt; b" in page and "<b>bold" not in page
    # The first latent frame as given; all five decoded for the four asked for, since each needs
    # those before it.
    assert visual.asked == [(1, 1, 2, 2), (1, 5, 2, 2)] * 2
    assert page.count("<img") == 4 and page.count("<audio") == 4
    assert "given: audio, audio frames 0 to 5" in page
    assert "asked for: visual, latent frames 1 to 4" in page


def test_page_without_tokenizers_has_no_media(dataset):
    task = sized(dataset, "poet_text_to_video")
    shown = task_view.examples(dataset, task, TEXT, "train", 1)
    page = task_view.page(task.plan, shown, title="t")
    assert "<img" not in page and "<audio" not in page and "text_ids 0:16" in page
