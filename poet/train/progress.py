"""How far a long job is, how fast it goes and when it will be done."""

import sys
import time


class Progress:
    """A bar on a terminal, a plain line every few seconds elsewhere. Use it in a `with`.

    The first step of a program compiles, so rate and time left come from recent steps only.
    """

    def __init__(
        self,
        name: str,
        num_steps: int,
        start: int = 0,
        unit: str = "steps",
        period_s: float = 5.0,
        stream=None,
    ):
        self._name, self._num_steps, self._unit = name, num_steps, unit
        self._stream = stream or sys.stderr
        self._period_s = period_s
        self._step, self._note = start, ""
        # (time, step) marks; the rate is measured from the oldest kept. None yet: the time to the
        # first step is that of compiling.
        self._marks: list[tuple[float, int]] = []
        self._last_line = time.monotonic()
        self._bar = self._task = None
        if self._stream.isatty():
            self._start_bar(start)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def update(self, step: int, note: str = "") -> None:
        """Says that `step` steps are done; `note` is a few words such as the loss."""
        now = time.monotonic()
        self._step, self._note = step, note or self._note
        if not self._marks or now - self._marks[-1][0] > 0.5:
            recent = [mark for mark in self._marks if now - mark[0] < 30]
            self._marks = (recent or self._marks[-1:]) + [(now, step)]
        if self._bar is not None:
            self._bar.update(self._task, completed=step, note=f"{self.speed()}  {self._note}")
        elif now - self._last_line >= self._period_s:
            self._last_line = now
            self._print_line()

    def say(self, text: str) -> None:
        """Prints one line without disturbing the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def rate(self) -> float:
        """Steps a second over the last half minute; 0 before anything is known."""
        if not self._marks:
            return 0.0
        (start_s, first), now = self._marks[0], time.monotonic()
        return max(0.0, self._step - first) / max(1e-6, now - start_s)

    def speed(self) -> str:
        """Rate and time left in words."""
        rate = self.rate()
        if not rate:
            return "starting"
        left = duration_words((self._num_steps - self._step) / rate)
        shown = f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"
        return f"{shown} {self._unit}/s, {left} left"

    def close(self) -> None:
        """Ends the bar, or prints the last plain line."""
        if self._bar is not None:
            self._bar.stop()
        else:
            self._print_line()

    def _print_line(self) -> None:
        note = f", {self._note}" if self._note else ""
        print(
            f"{self._name}: {self._step:,} of {self._num_steps:,} {self._unit},"
            f" {self.speed()}{note}",
            file=self._stream,
            flush=True,
        )

    def _start_bar(self, start: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(file=self._stream),
        )
        self._task = self._bar.add_task(self._name, total=self._num_steps, completed=start, note="")
        self._bar.start()


def duration_words(seconds: float) -> str:
    """Returns a duration as a person says it: "8 s", "3 min 20 s", "2 h 05 min"."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
