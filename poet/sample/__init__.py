"""Floor 3: from a plan, parameters and what is given to codes, and to files.

    from poet.sample import load_engine, make
    engine = load_engine("out/demo/model", "out/demo/tokenizers")
    make(engine, "text_to_video", "red.mp4", prompt="a red circle moves left", seed=1)

`Engine.generate` gives codes instead of files; `run` answers a `Job` of many `Ask`s.
"""

from poet.sample.asks import Ask, Job, Link
from poet.sample.decode import Decoding
from poet.sample.engine import Engine
from poet.sample.jobs import run
from poet.sample.loading import load_engine
from poet.sample.making import make
from poet.sample.requests import SamplingRequest

__all__ = [
    "Ask",
    "Decoding",
    "Engine",
    "Job",
    "Link",
    "SamplingRequest",
    "load_engine",
    "make",
    "run",
]
