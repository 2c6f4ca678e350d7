"""The pipeline, and the runner that `osteojax prep --runner=beam` hands its job to.

    files -> prepare -> (all) search -> candidates -> look -> (all) plan -> shards -> write

One chain: what several machines do at once stands between groupings that spread it, what needs the whole between
groupings that bring it together.
"""

import dataclasses
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import cv2
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineRunner

from data_prep.audit.near_duplicates import opencv_alone
from data_prep.beam import stages
from data_prep.beam.options import read_options
from data_prep.beam.shared import Shared
from data_prep.plan import Outcome, Plan, gather
from data_prep.runner import Job, Runner
from data_prep.shards import assemble, make_shards
from data_prep.workers import Guard
from osteojax import storage
from osteojax.errors import UserError
from osteojax.place import open_place

log = logging.getLogger(__name__)

# Files that one element stands for until they are spread: a job's graph must stay small.
_BLOCK = 1000


def beam_runner(words: Sequence[str], work: str | None, store: str | None = None) -> Runner:
    """What runs a job on Beam.

    Args:
        words: Beam's own options, `--beam.NAME=VALUE` each.
        work: what all workers see, a folder or an address on an object store; None where they see the folder beside
            the output.
        store: address of the object store that the source's folder was copied from, from which workers read; None
            where they see the folder itself.

    Raises:
        UserError: an option is none of Beam's.
    """
    runner, options = read_options(words)

    def run(job: Job) -> Plan:
        if job.spec.denoise.in_parent:
            raise UserError(
                "this denoiser holds an accelerator for one process; take another with --runner=beam, or --runner=local"
            )
        unseen = [None] * len(job.listed.records)
        job.check(gather(job.listed, unseen, job.settings, job.workdir.secret))  # by the listing alone
        shared = _share(dataclasses.replace(job, store=store), work)
        log.info("preparing %d files with %s", len(job.listed.records), type(runner).__name__)
        try:
            with opencv_alone():  # of workers that are threads of this process
                return _run(job, shared, runner, options)
        finally:
            shared.clear()

    return run


def _run(job: Job, shared: Shared, runner: PipelineRunner, options: PipelineOptions) -> Plan:
    try:
        pipeline = beam.Pipeline(runner=runner, options=options)
        build(pipeline, shared, len(job.listed.records))
        pipeline.run().wait_until_finish()
    except Exception as error:
        raise UserError(shared.refusal() or _summary(error)) from error
    if (gathered := shared.get("gathered")) is not None:
        job.check(gathered)
    plan = shared.get("plan")
    if plan is None:
        raise UserError(
            "the Beam runner ended without a plan; see its own log, and start the same command again"
        )
    _collect(job, shared, plan)
    return plan


def build(pipeline: beam.Pipeline, shared: Shared, files: int) -> None:
    """Adds the stages to a pipeline.

    Args:
        pipeline: an empty one.
        shared: where they hand over what is large, and find the job.
        files: how many there are.
    """
    starts = list(range(0, files, _BLOCK))
    (
        pipeline
        | "blocks" >> beam.Create(starts)
        | "files" >> beam.FlatMap(lambda start: range(start, min(start + _BLOCK, files)))
        | "spread files" >> _Spread(lambda index: index)
        | "prepare" >> beam.ParDo(_PrepareFiles(shared))
        | "all outcomes" >> _Together()
        | "search" >> beam.ParDo(_Telling(shared, stages.search))
        | "spread pairs" >> _Spread(lambda pair: pair.number)
        | "look" >> beam.ParDo(_Telling(shared, lambda shared, pair: [stages.look(shared, pair)]))
        | "all pairs" >> _Together()
        | "plan" >> beam.ParDo(_Telling(shared, stages.plan))
        | "spread shards" >> _Spread(lambda task: task.number)
        | "write" >> beam.ParDo(_Telling(shared, lambda shared, task: [stages.write(shared, task)]))
    )


class _Spread(beam.PTransform):
    """Deals elements to workers one by one; by a grouping, which every runner has.

    The key is the element's own: a random one, drawn anew where a lost worker's part is computed again, would have
    elements come twice or not at all.
    """

    def __init__(self, key: Callable[[Any], int]) -> None:
        super().__init__()
        self._key = key

    def expand(self, elements: Any) -> Any:
        key = self._key
        return (
            elements
            | beam.Map(lambda element: (key(element), element))
            | beam.GroupByKey()
            | beam.FlatMap(lambda keyed: keyed[1])
        )


class _Together(beam.PTransform):
    """Brings all elements to one worker as one iterable."""

    def expand(self, elements: Any) -> Any:
        return (
            elements
            | beam.Map(lambda element: (0, element))
            | beam.GroupByKey()
            | beam.Map(lambda keyed: keyed[1])
        )


class _PrepareFiles(beam.DoFn):
    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def setup(self) -> None:
        self._guard = Guard()

    def process(self, index: int) -> Iterator[tuple[int, Outcome]]:
        with self._shared.telling():
            yield index, stages.prepare_file(self._shared, self._guard, index)

    def teardown(self) -> None:
        self._guard.close()


class _Telling(beam.DoFn):
    """A stage whose mistakes of the user reach him."""

    def __init__(self, shared: Shared, stage: Any) -> None:
        self._shared, self._stage = shared, stage

    def setup(self) -> None:
        cv2.setNumThreads(1)  # see `opencv_alone`; a worker is Beam's

    def process(self, element: Any) -> Iterable[Any]:
        with self._shared.telling():
            yield from self._stage(self._shared, element)


def _share(job: Job, work: str | None) -> Shared:
    """Leaves the job where the workers find it."""
    token = secrets.token_hex(4)
    if work is None:
        shared = Shared(str(job.workdir.cache), str(job.workdir.folder / "beam" / token))
    else:
        base = work.rstrip("/") if storage.is_remote(work) else str(Path(work).resolve())
        shared = Shared(f"{base}/cache", f"{base}/{token}")
    # Workers have folders of their own to be in.
    listed = dataclasses.replace(job.listed, root=job.listed.root.resolve())
    shared.put("job", dataclasses.replace(job, listed=listed))
    return shared


def _collect(job: Job, shared: Shared, plan: Plan) -> None:
    """Makes the data set of the shards that the workers wrote."""

    def put(shard: Any, path: Path) -> None:
        content = open_place(shared.run).read(shard.name)
        if content is None:
            raise UserError(f"the Beam runner ended without shard {shard.name}; start the same command again")
        path.write_bytes(content)

    assemble(
        job.workdir.result, make_shards(plan.splits), plan.layout(job.settings), put, job.description(plan)
    )


def _summary(error: Exception) -> str:
    """The last line of what a runner says, which holds the cause."""
    lines = [
        line for line in str(error).splitlines() if line.strip() and not line.startswith("[while running")
    ]
    lines = lines or [type(error).__name__]
    return (
        f"the Beam runner failed ({lines[-1].strip()[:300]}); finished images are kept: mend it and start the same "
        "command again"
    )
