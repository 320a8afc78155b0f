"""The sizes of the demo: how many clips each makes, and which gin files say the rest."""

from poet.demo.stages import DemoSize

QUICK = DemoSize(
    name="quick",
    num_train=2900,
    num_validation=48,
    num_held_out=96,
    num_prompts=48,
    num_images=24,
    num_continuations=24,
    visual_gin="gin/tokenizers/visual_demo.gin",
    audio_gin="gin/tokenizers/audio_demo.gin",
    train_gin="gin/runs/demo.gin",
)

FULL = DemoSize(
    name="full",
    num_train=10_000,
    num_validation=120,
    num_held_out=240,
    num_prompts=128,
    num_images=64,
    num_continuations=64,
    visual_gin="gin/tokenizers/visual_demo_full.gin",
    audio_gin="gin/tokenizers/audio_demo_full.gin",
    train_gin="gin/runs/demo_full.gin",
)

TINY = DemoSize(
    name="tiny",
    num_train=24,
    num_validation=8,
    num_held_out=24,
    num_prompts=4,
    num_images=2,
    num_continuations=2,
    visual_gin="gin/tokenizers/visual_tiny.gin",
    audio_gin="gin/tokenizers/audio_tiny.gin",
    train_gin="gin/runs/tiny.gin",
)
