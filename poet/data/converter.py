"""SeqIO's last step: task features to model features, by `poet.tokens.sequence.assemble`.

    plan = sizes.plan(registry.get("poet_text_to_video").task)
    dataset = seqio.get_dataset(
        "poet_text_to_video", converter.task_feature_lengths(plan),
        feature_converter=converter.feature_converter(plan, task_name="poet_text_to_video"))

SeqIO and TensorFlow are imported when a function here is called, not before.
"""

import functools

import numpy as np

from poet.data.batches import text_is_dropped
from poet.data.features import CONDITIONS
from poet.tokens import sequence
from poet.tokens.sequence import SequencePlan

# Features of every Poet task in SeqIO (a mixture's tasks must agree on them) with their ranks;
# what a task does not use is empty.
TASK_FEATURE_RANKS = {"visual": 3, "audio": 2, "text_ids": 1, "masked": 3, "structure": 3}


def task_feature_lengths(plan: SequencePlan) -> dict[str, int]:
    """SeqIO's `sequence_length` of a plan: the longest first axis of each task feature."""
    num_levels = plan.sound.num_levels if plan.sound else 0
    return {
        "visual": plan.clip.latent_frames,
        "audio": num_levels,
        "text_ids": plan.num_text_slots,
        **dict.fromkeys(CONDITIONS, plan.clip.latent_frames),
    }


def feature_converter(
    plan: SequencePlan, *, task_name: str = "", text_dropout: float = 0.0, seed: int = 0
):
    """A `seqio.FeatureConverter` for the tasks of one plan.

    Its features are those of `AgdBatches`: decoder_input_tokens, decoder_target_tokens,
    decoder_loss_weights, text_ids and text_is_dropped (scalar), one example each, unbatched.

    Args:
      plan: fixes every length; groups of other lengths need a converter of their own.
      task_name: registered name; with the seed it says which examples lose their text.
      text_dropout: share of the examples that lose their text; 0 for evaluation.
      seed: the run's seed.
    """
    drops = functools.partial(text_is_dropped, seed, task_name, text_dropout=text_dropout)
    return _converter_class()(plan, drops if plan.task.has_text else None)


@functools.cache
def _converter_class():
    import seqio
    import tensorflow as tf

    spec = seqio.FeatureConverter.FeatureSpec
    lengths_by_name = {
        "decoder_input_tokens": tf.int32,
        "decoder_target_tokens": tf.int32,
        "decoder_loss_weights": tf.float32,
        "text_ids": tf.int32,
    }

    class PoetFeatureConverter(seqio.FeatureConverter):
        """Lays examples out by a plan. Nothing is packed or padded: lengths are exact."""

        TASK_FEATURES = {
            name: spec(dtype=tf.int32, rank=rank) for name, rank in TASK_FEATURE_RANKS.items()
        }
        MODEL_FEATURES = {
            **{name: spec(dtype=dtype) for name, dtype in lengths_by_name.items()},
            "text_is_dropped": spec(dtype=tf.bool, rank=0),
        }
        PACKING_FEATURE_DTYPES = None

        def __init__(self, plan, drops):
            super().__init__(pack=False)
            self._plan, self._drops = plan, drops

        def get_model_feature_lengths(self, task_feature_lengths):
            """Lengths of the plan; `task_feature_lengths` only bound what comes in."""
            length = self._plan.length - 1
            return {
                "decoder_input_tokens": length,
                "decoder_target_tokens": length,
                "decoder_loss_weights": length,
                "text_ids": self._plan.num_text_slots,
                "text_is_dropped": 1,
            }

        def _convert_features(self, ds, task_feature_lengths):
            lengths = self.get_model_feature_lengths(task_feature_lengths)

            def assemble(position, *features):
                fields = dict(zip(TASK_FEATURE_RANKS, features, strict=True))
                example = sequence.assemble(self._plan, fields)
                is_dropped = self._drops is not None and bool(self._drops(position))
                return [np.array(example[name]) for name in lengths_by_name] + [is_dropped]

            def convert(position, example):
                inputs = [position] + [example[name] for name in TASK_FEATURE_RANKS]
                types = [*lengths_by_name.values(), tf.bool]
                *arrays, is_dropped = tf.numpy_function(assemble, inputs, types)
                for name, array in zip(lengths_by_name, arrays, strict=True):
                    array.set_shape([lengths[name]])
                is_dropped.set_shape([])
                converted = dict(zip(lengths_by_name, arrays, strict=True))
                return {**converted, "text_is_dropped": is_dropped}

            return ds.enumerate().map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    return PoetFeatureConverter
