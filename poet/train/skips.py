"""How many updates were left out because they were not finite, and how many may be."""

from etils import epath

from poet.train import metrics

KIND = "skipped"


class Skips:
    """Counts steps whose update was left out.

    A run that was killed and goes on knows of the steps before: their rows of kind "skipped" in
    metrics.jsonl are written before the checkpoint that comes after them.

    Attributes:
      number: Skipped steps in all.

    Args:
      model_dir: MODEL_DIR of the run.
      max_skips: Steps of any `window` that may be skipped; 0: none.
      window: In steps.
      first_step: Steps done before; later rows are of steps that are made again.
    """

    def __init__(self, model_dir: epath.PathLike, max_skips: int, window: int, first_step: int):
        self._max_skips, self._window = max_skips, window
        self._steps: list[int] = []
        if max_skips and first_step:
            rows = metrics.read_metrics(model_dir)
            self._steps = [
                row["step"] for row in rows if row["kind"] == KIND and row["step"] <= first_step
            ]
        self.number = len(self._steps)

    def add(self, step: int) -> int:
        """Counts one more, counted from 1 as in metrics; returns the number in all."""
        self._steps = [*self._lately(step), step]
        self.number += 1
        return self.number

    @property
    def are_too_many(self) -> bool:
        """Whether the last `window` steps have more than `max_skips` of them."""
        return len(self._steps) > self._max_skips

    @property
    def in_words(self) -> str:
        """How many of how many steps, as of the last one added."""
        return f"{len(self._steps)} of the last {self._window:,} steps"

    def _lately(self, step: int) -> list[int]:
        return [earlier for earlier in self._steps if earlier > step - self._window]
