"""Requests in, files out: clips, pictures and sounds beside the ids and settings that made them.

A job writes OUT/NAME.mp4 (.webm, .gif, .png, .wav) and OUT/NAME.json for every request, both whole
or not at all, and at the end OUT/samples.jsonl with one row a request in their order. A job that
was killed, or lost some files, makes what is missing; the ids do not depend on what that is,
because every draw is keyed by the seed, the request's number and the position.

Media and tokenizers are imported where they are used: the rest of `poet.sample` runs without them.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from poet.sample import candidates, extend, inputs, names, outputs
from poet.sample.asks import Ask, Job, Link
from poet.sample.engine import Engine
from poet.sample.preview import Preview
from poet.tokens.tasks import Task

__all__ = ["Ask", "Job", "Link", "check", "check_ask", "run", "unanswered"]


def run(
    engine: Engine,
    job: Job,
    asks: Sequence[Ask],
    say: Callable[[int], None] = lambda done: None,
    estimator: Any = None,
    pick: candidates.PickFn | None = None,
) -> list[dict[str, Any]]:
    """Answers every request that has no files yet; returns the rows of samples.jsonl.

    Args:
      engine: The model and its tokenizers.
      job: What to do.
      asks: Requests; names differ.
      say: Called with the number of requests answered so far.
      estimator: Of flow and depth, for stylization; OpenCV's flow when None.
      pick: Chooses among the job's tries; the likeliest when None.

    Raises:
      ValueError: A request lacks what the task needs, names a file that cannot be read, or the
        model was not trained for a task.
    """
    facts = engine.facts | _structure_fact(engine, job, asks, estimator)
    check(engine, job, asks)
    for ask in asks:
        outputs.check_free(facts, job, ask)
    readable = []
    for ask in asks:
        try:
            check_ask(engine, job, ask)
            readable.append(ask)
        except ValueError as error:
            if not job.records_failures:
                raise
            outputs.write_failure(facts, job, ask, error)
    todo = [ask for ask in readable if not outputs.is_answered(facts, job, ask)]
    done = len(asks) - len(todo)
    if not todo:
        say(done)
    # Batches keep the size that all requests give, and so the compiled program, if few are left.
    sizes = {name: _batch_size(len(group), job) for name, group in _groups(engine, job, readable)}
    for task_name, group in _groups(engine, job, todo):
        size = sizes[task_name]
        for first in range(0, len(group), size):
            batch = group[first : first + size]
            _Batch(engine, facts, job, task_name, size, estimator, pick).answer(batch)
            done += len(batch)
            say(done)
    rows = [json.loads(outputs.row_path(job, ask).read_text()) for ask in asks]
    if job.has_table and not job.file_name:
        shown = [{k: v for k, v in row.items() if k != "ids"} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in shown)
        outputs.write_text(job.out / "samples.jsonl", text)
    return rows


def unanswered(engine: Engine, job: Job, asks: Sequence[Ask], estimator: Any = None) -> list[Ask]:
    """The requests whose files are not there, by whoever answers them."""
    facts = engine.facts | _structure_fact(engine, job, asks, estimator)
    return [ask for ask in asks if not outputs.is_answered(facts, job, ask)]


def check(engine: Engine, job: Job, asks: Sequence[Ask]) -> None:
    """Refuses a job that no request of it could be answered in, before anything is decoded."""
    if not asks:
        raise ValueError(
            "Expected at least one request, got none; give --prompt, --image, --video or --requests"
            " with at least one row."
        )
    counts = collections.Counter(ask.name for ask in asks)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(f"Names of requests must differ, but {twice[:3]} come more than once.")
    for ask in asks:
        _check_ending(engine, job, ask)


def _chain_of(engine: Engine, job: Job, ask: Ask) -> list[Task]:
    """The tasks that answer a request, one after the other."""
    later = [
        engine.task(names.resolve(link.task, engine.tasks, has_text=bool(link.prompt)))
        for link in job.then
    ]
    return [_task_of(engine, job, ask), *later]


def _structure_fact(
    engine: Engine, job: Job, asks: Sequence[Ask], estimator: Any
) -> dict[str, Any]:
    """{"structure": what flow and depth are drawn by}, for jobs that need them."""
    chains = [_chain_of(engine, job, ask) for ask in asks]
    fields = {part.field for chain in chains for task in chain for part in task.inputs}
    if "structure" not in fields:
        return {}
    return {"structure": None if estimator is None else estimator.fingerprint}


def _check_ending(engine: Engine, job: Job, ask: Ask) -> None:
    """ValueError where the one file's name does not fit what the tasks make."""
    chain = _chain_of(engine, job, ask)
    if not job.file_name:
        return
    visual = [part for task in chain for part in task.outputs if part.kind == "visual"]
    is_picture = bool(visual) and visual[-1].stop == 1
    has_sound = any(part.kind == "audio" for task in chain for part in task.inputs + task.outputs)
    fitting = (".png",) if is_picture and not has_sound else (".mp4", ".webm", ".gif")
    fitting += (".wav",) if has_sound else ()
    if os.path.splitext(job.file_name)[1].lower() not in fitting:
        raise ValueError(
            f"{chain[-1].name!r} makes {' or '.join(fitting)} here, but --out is"
            f" {job.file_name}; change its ending."
        )


def check_ask(engine: Engine, job: Job, ask: Ask) -> None:
    """ValueError for a request that cannot be answered, by what it says; files are read later."""
    task = _task_of(engine, job, ask)
    job.sampling_of(ask, 0).check_task(task)
    for words in () if ask.codes else (ask.prompt, *(words for _, words in ask.later)):
        _check_prompt(engine, task, words)
    if ask.negative_prompt:
        if not task.has_text or job.sampling_of(ask, 0).guidance == 1:
            raise ValueError(
                f"Request {ask.name!r} has a negative prompt, which needs a task with words and"
                " --guidance above 1, for example 3."
            )
        engine.check_prompt(ask.negative_prompt)
    inputs.check(task, ask)
    followers = zip(job.then, _chain_of(engine, job, ask)[1:], strict=True)
    for place, (link, follower) in enumerate(followers, start=1):
        job.sampling_of(ask, place)  # refuses an unfit temperature
        _check_prompt(engine, follower, link.prompt or ask.prompt)
    if job.seconds:
        extend.check(engine, job, ask, task)
    elif ask.later:
        raise ValueError(
            f"The words of request {ask.name!r} change with time, which needs --seconds."
        )


def _check_prompt(engine: Engine, task: Task, text: str) -> None:
    if task.needs_text or (text and task.has_text):
        engine.check_prompt(text)


def _task_of(engine: Engine, job: Job, ask: Ask) -> Task:
    name = names.resolve(job.task, engine.tasks, bool(ask.prompt), bool(ask.image and ask.video))
    return engine.task(name)


def _batch_size(count: int, job: Job) -> int:
    """The fewest calls with the fewest rows to fill up: 48 requests are 2 x 24, not 32 + 16."""
    return -(-count // -(-count // job.batch_size))


def _groups(engine: Engine, job: Job, asks: Sequence[Ask]) -> list[tuple[str, list[Ask]]]:
    """(task, requests that it answers) of all, in the order of the first request of each."""
    groups: dict[str, list[Ask]] = {}
    for ask in asks:
        groups.setdefault(_task_of(engine, job, ask).name, []).append(ask)
    return list(groups.items())


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Answers some requests of one task together."""

    engine: Engine
    facts: Mapping[str, Any]
    job: Job
    task_name: str
    size: int
    estimator: Any
    pick: candidates.PickFn | None

    def answer(self, asks: list[Ask]) -> None:
        """Writes the files of all; a request that cannot be read is noted if the job says so."""
        task = self.engine.task(self.task_name)
        readable, givens = [], []
        for ask in asks:
            try:
                givens.append(self._read(ask, task))
                readable.append(ask)
            except (ValueError, OSError) as error:
                if not self.job.records_failures:
                    raise
                outputs.write_failure(self.facts, self.job, ask, error)
        if not readable:
            return
        missing = self.size - len(readable)
        padded = readable + readable[-1:] * missing
        fields: dict[str, Any] = {}
        if givens[0].frames or givens[0].sound is not None or givens[0].codes:
            fields = inputs.encode(self.engine, givens + givens[-1:] * missing)
        preview = None
        if self.job.has_preview and any(part.kind == "visual" for part in task.outputs):
            folder = self.job.out / "preview"
            preview = Preview(self.engine, folder, [ask.name for ask in readable])
        fields = self._made(task.name, padded, fields, 0, preview)
        seconds = {}
        if preview is not None:
            seconds = {"first_frame_s": preview.first_s, "last_frame_s": preview.total_s}
        for place, link in enumerate(self.job.then, start=1):
            fields = self._follow(link, padded, fields, place)
        self._write(padded, givens, fields, {"answered_by": task.name, **seconds})

    def _read(self, ask: Ask, task: Task) -> inputs.Given:
        engine, sound = self.engine, self.engine.sound
        if ask.codes:
            codes = ask.codes(engine.text_tokenizer)
            given = {part.field: codes[part.field] for part in task.inputs}
            return inputs.Given(frames={}, sound=None, notes=(), codes=given)
        return inputs.read(
            ask,
            task,
            engine.clip,
            sound.sample_rate_hz if sound else 0,
            sound.num_samples if sound else 0,
            self.job.task in names.FROM_END,
            self.estimator,
        )

    def _made(
        self,
        name: str,
        asks: list[Ask],
        fields: Mapping[str, Any],
        place: int,
        preview: Preview | None = None,
    ) -> dict[str, Any]:
        """The fields with what the task makes of them."""
        prompt = self.job.then[place - 1].prompt if place else ""
        if prompt:  # not the text that a record brought
            fields = {name: codes for name, codes in fields.items() if name != "text_ids"}
        texts = {
            "prompts": [prompt or ask.prompt for ask in asks],
            "negative_prompts": [ask.negative_prompt for ask in asks] if not place else [],
        }
        made = candidates.generate(
            self.engine,
            name,
            {**fields, **texts},
            asks,
            [self.job.sampling_of(ask, place) for ask in asks],
            place,
            candidates.Choice(self.job.tries, self.pick),
            **({"preview": preview} if preview else {}),
        )
        return {**fields, **made}

    def _follow(
        self, link: Link, asks: list[Ask], fields: dict[str, Any], place: int
    ) -> dict[str, Any]:
        """The next task of a chain, on what was made; masks and flow are drawn anew."""
        engine = self.engine
        task = engine.task(names.resolve(link.task, engine.tasks, has_text=bool(link.prompt)))
        drawn = {part.field for part in task.inputs} & {"masked", "structure"}
        if drawn:
            painted = [dataclasses.replace(ask, mask=link.mask) for ask in asks]
            found = [
                inputs.derived(ask, task, engine.clip, frames, self.estimator)
                for ask, frames in zip(painted, engine.decode_video(fields["visual"]), strict=True)
            ]
            givens = [inputs.Given(frames=one, sound=None, notes=()) for one in found]
            fields = fields | inputs.encode(engine, givens)
        missing = {part.field for part in task.inputs if part.kind != "text"} - set(fields)
        if missing:
            raise ValueError(
                f"{task.name!r} is given {' and '.join(sorted(missing))}, which the tasks before it"
                " do not make; change the order of --then."
            )
        return self._made(task.name, asks, fields, place)

    def _write(
        self,
        padded: list[Ask],
        givens: list[inputs.Given],
        fields: dict[str, Any],
        told: Mapping[str, Any],
    ) -> None:
        """Files and rows of the requests that were read; the others of ``padded`` are fillers."""
        engine, count = self.engine, len(givens)
        if self.job.seconds:
            clips = extend.extend(engine, self.job, padded, fields, count, self.pick)
        else:
            # Decoded together: tokenizers work in batches of one compiled size.
            frames = engine.decode_video(fields["visual"][:count]) if "visual" in fields else None
            sound = engine.decode_sound(fields["audio"][:count]) if "audio" in fields else None
            clips = extend.Clips(frames=frames, sound=sound, rounds=[fields])
        for i, ask in enumerate(padded[:count]):
            ids = [
                {k: np.asarray(v[i]).tolist() for k, v in codes.items()} for codes in clips.rounds
            ]
            outputs.write_answer(
                engine,
                self.facts,
                self.job,
                ask,
                frames=None if clips.frames is None else clips.frames[i],
                sound=None if clips.sound is None else clips.sound[i],
                ids=ids[0] if len(ids) == 1 else ids,
                more={**told, "notes": list(givens[i].notes)},
            )
