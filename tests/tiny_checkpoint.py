"""A trained checkpoint in a few seconds: tokenizers without weights, one step of one small layer.

Clips of the shapes world at 32 px are 5 latent frames of 2 x 2 codes and 2 levels of 17 audio
frames. The model knows every task, since nothing of a task needs training but its first step.
"""

import numpy as np
import tiny_lm

from poet.data import registry
from poet.data.clips import ClipRules
from poet.data.conditions import Conditions
from poet.data.prepare import PrepareConfig, prepare
from poet.data.structure import ExactStructure
from poet.shapes_world import files
from poet.tokenizers import protocol
from poet.tokenizers.text import WordTokenizer
from poet.train import lm, loop
from poet.train.lm_program import Evaluation
from poet.train.optimizer import OptimizerConfig
from poet.train.partitioning import MeshConfig

SIZE_PX = 32
MIXTURE = "tiny_checkpoint"


class MeanColours:
    """A visual tokenizer: a code is the mean colour of a block of 16 px, four levels a channel."""

    px_per_token, frames_per_token = 16, 4
    is_causal, licence = True, "ours"
    num_codes, fingerprint = 64, "mean-colours-1"

    def encode(self, video):
        """Codes of the last frame of each latent frame."""
        batch, _, rows, columns, _ = video.shape
        blocks = video[:, ::4].reshape(batch, -1, rows // 16, 16, columns // 16, 16, 3)
        levels = np.minimum((blocks.mean((3, 5)) * 4).astype(np.int32), 3)
        return (levels * [16, 4, 1]).sum(-1).astype(np.int32)

    def decode(self, codes):
        """Blocks of one colour."""
        levels = np.stack([codes // 16, codes // 4 % 4, codes % 4], -1)
        blocks = ((levels + 0.5) / 4).astype(np.float32).repeat(16, 2).repeat(16, 3)
        return np.concatenate([blocks[:, :1], blocks[:, 1:].repeat(4, 1)], 1)


class Loudness:
    """An audio tokenizer: two levels of the loudness of an eighth of a second."""

    num_levels, codebook_size = 2, 16
    samples_per_frame, sample_rate_hz = 2000, 16_000
    is_causal, licence = True, "ours"
    fingerprint = "loudness-8"

    def encode(self, wave):
        """The loudness in 256 steps, as two digits."""
        frames = wave[:, : wave.shape[1] // 2000 * 2000].reshape(len(wave), -1, 2000)
        loud = np.minimum(np.abs(frames).mean(2) * 255, 255).astype(np.int32)
        return np.stack([loud // 16, loud % 16], 1)

    def decode(self, codes, num_samples=None):
        """A tone as loud."""
        loud = (codes[:, 0] * 16 + codes[:, 1]) / 255
        tone = np.sin(2 * np.pi * 440 * np.arange(codes.shape[2] * 2000) / 16_000)
        wave = (loud.repeat(2000, 1) * tone).astype(np.float32)
        return wave if num_samples is None else wave[:, :num_samples]


def make_dataset(out, num_clips=8):
    """OUT/clips, tokenizers and dataset; splits train, validation and held_out."""
    counts = {"train": num_clips, "validation": 4, "held_out": 4}
    files.write_clips(out / "clips", 0, counts, size_px=SIZE_PX)
    tokenizers = {
        kind: protocol.adopt(out / "tokenizers" / kind, f"tiny_checkpoint:{name}")
        for kind, name in (("visual", "MeanColours"), ("audio", "Loudness"))
    }
    config = PrepareConfig(
        media=out / "clips",
        out_dir=out / "dataset",
        rules=ClipRules(height_px=SIZE_PX, width_px=SIZE_PX),
        num_workers=0,
        conditions=Conditions(
            regions=("inpaint_central", "outpaint_central"), estimator=ExactStructure()
        ),
    )
    prepare(config, tokenizers["visual"], tokenizers["audio"])
    return out


def make(out, num_clips=8):
    """OUT/clips, tokenizers, dataset and model."""
    make_dataset(out, num_clips)
    registry.load_task_modules(["tasks.paper"])
    weights = {
        name: 1.0
        for name in registry.names()
        if name.startswith("poet_") and isinstance(registry.get(name), registry.TaskEntry)
    }
    registry.register_mixture(MIXTURE, weights | {"poet_unconditional": 1e9})
    lm.train(
        lm.LMRun(
            data_dir=str(out / "dataset"),
            mixture_or_task_name=MIXTURE,
            model=tiny_lm.TRAINED,
            text_tokenizer=WordTokenizer(16, 300),
            loop=loop.LoopConfig(model_dir=str(out / "model"), num_steps=1),
            batch_tokens=300,
            optimizer=OptimizerConfig(warmup_steps=0, learning_rate=1e-2),
            evaluation=Evaluation(num_examples=0),
            mesh=MeshConfig(num_devices=1),
        )
    )
    return out
