"""The stages of the pipeline, as plain functions of elements and of what is shared; Beam is not known here."""

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.audit.audit import by_record, conclude, of_one_patient, same_content
from data_prep.audit.keypoint_index import Candidate
from data_prep.audit.near_duplicates import NearDuplicate, choose, compare, find_candidates
from data_prep.audit.shortcuts import look_of
from data_prep.beam.described import prepare_and_describe, read_keypoints, read_thumbnail
from data_prep.beam.shared import Shared
from data_prep.image_task import load_image, prepare_image
from data_prep.plan import Gathered, Outcome, gather, make_plan
from data_prep.policies import too_many
from data_prep.shards import Layout, Shard, make_shards, write_shard
from data_prep.workers import Guard, WorkerDied
from osteojax.place import open_place


@dataclasses.dataclass(frozen=True)
class Pair:
    """A candidate by its number, the keys of its two images, and what became of it; number 0 holds no candidate."""

    number: int
    candidate: Candidate | None = None
    query: str = ""
    known: str = ""
    found: NearDuplicate | None = None


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """A shard by its number, with all that writing it takes; `keys` tells its examples' images by id."""

    number: int
    shard: Shard
    layout: Layout
    keys: dict[str, str]


def prepare_file(shared: Shared, guard: Guard, index: int) -> Outcome:
    """What becomes of one file, in a process of its own: none can stop the worker.

    One that dies is tried once more; it may have been killed from outside.
    """
    job = shared.job
    task, seconds = job.task(index, shared.cache), job.settings.limits.seconds
    work = prepare_and_describe if job.looks_at_images else prepare_image
    outcome = guard.run(work, task, seconds)
    return guard.run(work, task, seconds) if isinstance(outcome, WorkerDied) else outcome


def search(shared: Shared, outcomes: Iterable[tuple[int, Outcome]]) -> Iterator[Pair]:
    """Gathers all outcomes, in the order of their files, and looks for images that share keypoints.

    Yields a pair of nothing first, so that what follows is run where there is no pair; nothing where too many files
    are unusable.
    """
    job = shared.job
    gathered = _gather_once(shared, outcomes)
    if too_many(gathered.rejected, job.total, job.settings.quarantine.max_fraction):
        return
    yield Pair(0)
    if job.settings.audit.near_duplicates:
        keys = _representatives(gathered)
        candidates = find_candidates((read_keypoints(shared.cache, key) for key in keys), len(keys))
        for number, found in enumerate(candidates, start=1):
            yield Pair(number, found, keys[found.query], keys[found.known])


def _gather_once(shared: Shared, outcomes: Iterable[tuple[int, Outcome]]) -> Gathered:
    """What the first attempt gathered: a stage that is run again must not disagree with those that have gone on."""
    if (gathered := shared.get("gathered")) is None:
        job, found = shared.job, dict(outcomes)
        in_order = [found[index] for index in range(len(job.listed.records))]
        gathered = gather(job.listed, in_order, job.settings, job.workdir.secret)
        shared.put("gathered", gathered)
    return gathered


def _representatives(gathered: Gathered) -> list[str]:
    """Key of the first image of each content."""
    return [gathered.images[c[0]].prepared.key for c in same_content(gathered.audit_records)]


def look(shared: Shared, pair: Pair) -> Pair:
    """Compares the fine detail of a candidate's images."""
    if pair.candidate is None:
        return pair
    query, known = (read_thumbnail(shared.cache, key) for key in (pair.query, pair.known))
    return dataclasses.replace(pair, found=compare(pair.candidate, query, known))


def plan(shared: Shared, looked_at: Iterable[Pair]) -> Iterator[ShardTask]:
    """Groups, splits and everything else that the whole decides; leaves the plan and gives its shards."""
    job, gathered = shared.job, shared.get("gathered")
    records = gathered.audit_records
    contents = same_content(records)
    looked = [(pair.candidate, pair.found) for pair in looked_at if pair.candidate is not None]
    found = {(candidate.query, candidate.known): pair for candidate, pair in looked}
    chosen = choose(
        [candidate for candidate, _ in looked],
        len(contents),
        lambda some: [found[c.query, c.known] for c in some],
        same=of_one_patient(records, contents),
    )
    looks = None
    if job.settings.audit.shortcuts:
        looks = [look_of(read_thumbnail(shared.cache, image.prepared.key)) for image in gathered.images]
    pairs = by_record(chosen, contents) if job.settings.audit.near_duplicates else None
    audit = conclude(records, pairs, looks, seed=job.settings.seed)
    made = make_plan(gathered, audit, job.settings, shared.cache, job.table)
    shared.put("plan", made)
    keys, layout = made.image_keys, made.layout(job.settings)
    for number, shard in enumerate(make_shards(made.splits)):
        yield ShardTask(number, shard, layout, {e.id: keys[e.id] for e in shard.examples})


def write(shared: Shared, task: ShardTask) -> str:
    """Writes a shard on the worker's own disk, since ArrayRecord writes nowhere else, and hands it over whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / task.shard.name
        write_shard(
            path, task.shard, task.layout, lambda example: load_image(shared.cache, task.keys[example.id])
        )
        open_place(shared.run).write(task.shard.name, path.read_bytes())
    return task.shard.name
