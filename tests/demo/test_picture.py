import numpy as np
from PIL import Image

from poet.demo import picture

WIDTH = 5 * 96 + 4 * 3  # five frames of 96 pixels with seams of 3


def flat(level, num_frames=17):
    return np.full((num_frames, 8, 8, 3), level, np.uint8)


def test_a_card_shows_first_to_last_frame_below_what_was_given():
    frames = np.arange(17, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    card = picture.card("words", frames, np.ones(1000), above=[flat(100, 1), np.zeros(1000)])
    # Title of 18; a picture, a waveform of 40, the clip and its waveform, each with a seam.
    assert card.shape == (18 + 2 * (96 + 3) + 2 * (40 + 3), WIDTH, 3)
    assert (card[18 : 18 + 96, :96] == 100).all() and (card[18 : 18 + 96, 96:] == 255).all()
    first = 18 + 96 + 3 + 40 + 3
    shown = [card[first + 50, place * 99 + 50, 0] for place in range(5)]
    assert shown == [0, 4, 8, 12, 16]
    silent, loud = card[18 + 99 : 18 + 139], card[-43:-3]
    assert (silent != 255).any(axis=2).sum() == WIDTH, "a line of one pixel"
    assert (loud != 255).any(axis=2).mean() > 0.9


def test_a_page_has_two_cards_a_row(tmp_path):
    cards = [
        picture.card("one", flat(10)),
        picture.card("two", flat(20)),
        picture.card("three", None),
    ]
    path = picture.write_page(cards, tmp_path / "page.png")
    page = np.asarray(Image.open(path))
    # A row is as high as its highest card: titles and frames in the first, a title in the second.
    assert page.shape == (12 + 18 + 99 + 12 + 18 + 12, 2 * (WIDTH + 12) + 12, 3)
    assert (page[12 + 20, 12 + 5] == 10).all() and (page[12 + 20, 2 * 12 + WIDTH + 5] == 20).all()
    assert [item.name for item in tmp_path.iterdir()] == ["page.png"]
