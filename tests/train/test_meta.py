"""Configs survive JSON."""

import json

import jax.numpy as jnp
import pytest

from poet.models.config import PrefixLMConfig
from poet.models.text_encoder import TextEncoderConfig
from poet.tokens import tasks
from poet.tokens.clip import SoundShape
from poet.tokens.vocabulary import Vocabulary
from poet.train import meta


@pytest.mark.parametrize(
    "config",
    [
        PrefixLMConfig(
            vocabulary=Vocabulary(num_visual=16, audio_levels=(4, 4), num_text=259),
            text=TextEncoderConfig(num_ids=259, num_layers=1),
            num_kv_heads=4,
        ),
        SoundShape(2, 106),
        *tasks.TASKS.values(),
    ],
)
def test_round_trip(config):
    text = json.dumps(meta.to_json(config))
    assert meta.from_json(type(config), json.loads(text)) == meta.from_json(
        type(config), meta.to_json(config)
    )
    assert meta.to_json(meta.from_json(type(config), json.loads(text))) == meta.to_json(config)


def test_tasks_are_equal_after_the_round_trip():
    task = tasks.get("image_to_video")
    assert meta.from_json(tasks.Task, meta.to_json(task)) == task


def test_dtypes_go_by_name():
    assert meta.to_json(PrefixLMConfig(dtype=jnp.bfloat16))["dtype"] == "bfloat16"


def test_a_field_of_another_version_is_refused():
    with pytest.raises(ValueError, match="SoundShape has no field colour; another version"):
        meta.from_json(SoundShape, {"num_levels": 1, "num_audio_frames": 1, "colour": 3})
