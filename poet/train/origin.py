"""Where a fresh run takes its parameters from: another run of the same model and ids."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from poet.train import checkpoint
from poet.train.meta import first_difference

# Facts that must agree for parameters to mean the same -> what they are called.
_SHARED = {
    "kind": "the kind of model",
    "vocabulary": "the id table",
    "tokenizers": "the tokenizers' fingerprints",
    "text_tokenizer": "the text tokenizer",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """A checkpoint of another run.

    Attributes:
      model_dir: MODEL_DIR of that run.
      step: Which checkpoint.
    """

    model_dir: str
    step: int

    def load(self, like: Any) -> Any:
        """The parameters, with the shapes and shardings of ``like``."""
        return checkpoint.load_params(self.model_dir, self.step, like)


def find(model_dir: epath.PathLike, facts: Mapping[str, Any], params: Any) -> Origin:
    """The newest checkpoint of another run, if a run with these facts can begin with it.

    Args:
      model_dir: MODEL_DIR of the other run.
      facts: Of the new run, as they are saved with its checkpoints.
      params: Shapes of the new run's parameters.

    Raises:
      ValueError: There is no checkpoint, its ids mean something else, or a parameter has another
        shape.
    """
    try:
        step = checkpoint.newest_step(model_dir)
    except ValueError as error:
        raise ValueError(
            f"init_from={model_dir} should be the MODEL_DIR of a run to begin with, but holds no"
            " checkpoint; train that run first, or set init_from = '' to begin with nothing."
        ) from error
    theirs = checkpoint.read_meta(model_dir, step)
    for name, words in _SHARED.items():
        if theirs.get(name) != facts[name]:
            key, want, got = first_difference(facts[name], theirs.get(name))
            raise ValueError(
                f"A run begins with the parameters of one that agrees in {words}, but in step"
                f" {step} of init_from={model_dir} {key or name} is {got}, here {want}; use the"
                " dataset and the text tokenizer of that run, or another init_from."
            )
    wrong = checkpoint.shape_difference(model_dir, step, params)
    if wrong:
        raise ValueError(
            f"A run begins with parameters of its own shapes, but of init_from={model_dir} {wrong};"
            " give the model that run's sizes, or choose another init_from."
        )
    return Origin(str(model_dir), step)
