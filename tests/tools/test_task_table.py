import pytest

from poet.tokens import tasks
from tools import task_table

SPEC = {  # spec/videopoet.md section 2.5; 41 frames have a duration id besides
    ("text_to_image", "square, 17 frames"): 325,
    ("unconditional", "square, 17 frames"): 1_285,
    ("text_to_video", "square, 17 frames"): 1_351,
    ("text_to_video", "portrait, 17 frames"): 2_312,
    ("text_to_video", "square, 41 frames"): 2_887 + 1,
    ("text_to_video", "portrait, 41 frames"): 5_000 + 1,
    ("image_to_video", "square, 17 frames"): 1_353,
    ("inpainting", "square, 17 frames"): 2_567,
    ("outpainting_with_text", "square, 17 frames"): 2_633,
    ("stylization", "square, 17 frames"): 2_633,
    ("video_to_audio", "square, 17 frames"): 1_711,
    ("audio_to_video", "square, 17 frames"): 1_711,
}


def row(name, heading):
    """Cells of a task's row in the table whose first line begins with a heading."""
    table = task_table.tables().split(heading)[1]
    line = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize("name, size", SPEC)
def test_total_lengths_are_the_specs(name, size):
    cell = row(name, "Prefix + output")[list(task_table.CLIPS).index(size)]
    assert cell.endswith(f"= {SPEC[name, size]:,}")


def test_a_row_says_what_is_given_and_asked_for():
    assert row("audio_video_continuation", "| task | prompt") == [
        "`<task:av_continuation>` 69",
        "visual, latent frames 0 to 0 (256 ids); audio, audio frames 0 to 5 (24 ids)",
        "visual, latent frames 1 to 4 (1,024 ids); audio, audio frames 6 to 105 (400 ids)",
    ]


def test_the_page_is_up_to_date():
    text = task_table.PAGE.read_text()
    assert text == task_table.page_with(text), "run: python -m tools.task_table"
    assert all(f"| {name} |" in text for name in tasks.TASKS)
