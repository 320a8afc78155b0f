import numpy as np
import pytest

from poet.tokens import vocabulary
from poet.tokens.vocabulary import IdRange, Vocabulary


def test_special_ids_are_frozen():
    """Every number here is in checkpoints and datasets; none may ever move."""
    names = {
        0: "<pad>",
        1: "<bos>",
        2: "<eos>",
        3: "<bot_i>",
        4: "<eot_i>",
        5: "<bov_i>",
        6: "<eov_i>",
        7: "<boa_i>",
        8: "<eoa_i>",
        9: "<bov_o>",
        10: "<eov_o>",
        11: "<boa_o>",
        12: "<eoa_o>",
        64: "<task:video>",
        65: "<task:paint>",
        66: "<task:style>",
        67: "<task:video_to_audio>",
        68: "<task:audio_to_video>",
        69: "<task:av_continuation>",
    }
    for word, start in {"source": 16, "res": 32, "duration": 48}.items():
        names |= {start + i: f"<{word}:{i}>" for i in range(16)}
    assert vocabulary.SPECIAL_NAMES == names
    assert (vocabulary.PAD, vocabulary.BOS, vocabulary.EOS) == (0, 1, 2)
    assert (vocabulary.BOT_I, vocabulary.EOT_I) == (3, 4)
    assert (vocabulary.BOV_I, vocabulary.EOV_I) == (5, 6)
    assert (vocabulary.BOA_I, vocabulary.EOA_I) == (7, 8)
    assert (vocabulary.BOV_O, vocabulary.EOV_O) == (9, 10)
    assert (vocabulary.BOA_O, vocabulary.EOA_O) == (11, 12)
    assert (vocabulary.VIDEO, vocabulary.PAINT, vocabulary.STYLE) == (64, 65, 66)
    assert (vocabulary.VIDEO_TO_AUDIO, vocabulary.AUDIO_TO_VIDEO) == (67, 68)
    assert vocabulary.AV_CONTINUATION == 69


def test_paper_ranges():
    table = Vocabulary()
    assert (table.visual.start, table.visual.stop) == (256, 262_400)
    assert [table.audio(level).start for level in range(4)] == [262_400, 263_424, 264_448, 265_472]
    assert table.text.start == 266_496
    assert table.size == 298_624
    names = [segment.name for segment in table.segments]
    assert names == ["special", "visual", "audio_0", "audio_1", "audio_2", "audio_3", "text"]


def test_ranges_lie_end_to_end():
    table = Vocabulary(num_visual=7, audio_levels=(3, 5), num_text=11)
    for left, right in zip(table.segments, table.segments[1:], strict=False):
        assert left.stop == right.start
    assert table.segments[0].start == 0 and table.segments[-1].stop == table.size == 282


def test_ids_go_there_and_back():
    visual = Vocabulary(num_visual=10).visual
    codes = np.arange(10, dtype=np.uint8)
    ids = visual.to_global(codes)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, np.arange(256, 266))
    np.testing.assert_array_equal(visual.to_local(ids), codes)
    assert visual.to_local(256) == 0 and visual.to_global(9) == 265


@pytest.mark.parametrize("token", [-1, 255, 266, 2**40])
def test_ids_outside_a_range_are_refused(token):
    with pytest.raises(ValueError, match=rf"Token {token} is not in the 'visual' range"):
        Vocabulary(num_visual=10).visual.to_local(token)


@pytest.mark.parametrize("code", [-1, 10])
def test_codes_outside_a_codebook_are_refused(code):
    with pytest.raises(ValueError, match=rf"Code {code} is not in the 'visual' codebook \[0, 10\)"):
        Vocabulary(num_visual=10).visual.to_global(np.array([0, code]))


def test_fractions_are_refused():
    with pytest.raises(ValueError, match="must be integers, got float64"):
        IdRange("visual", 256, 4).to_global(np.array([1.0]))


def test_audio_level_must_exist():
    with pytest.raises(ValueError, match="Audio level 2 does not exist: this vocabulary has 2"):
        Vocabulary(audio_levels=(4, 4)).audio(2)


def test_sizes_must_be_positive():
    with pytest.raises(ValueError, match=r"audio_levels\[1\]=0 must be at least 1"):
        Vocabulary(audio_levels=(4, 0))


def test_dict_and_fingerprint():
    table = Vocabulary(num_visual=10, audio_levels=(4, 4), num_text=9)
    again = Vocabulary.from_dict(table.to_dict())
    assert again == table and hash(again) == hash(table)
    assert again.fingerprint == table.fingerprint
    assert table.fingerprint != Vocabulary(num_visual=11, audio_levels=(4, 4)).fingerprint
