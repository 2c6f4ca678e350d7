"""The work of a preparation, from listed files to written shards: on this machine, or wherever a `Runner` does it."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_prep.audit.audit import Audit, audit_records
from data_prep.image_task import ImageTask, load_image, prepare_image
from data_prep.plan import Failure, Gathered, Outcome, Plan, gather, make_plan, shown_as
from data_prep.policies import check_quarantine
from data_prep.preprocess import PreprocessSpec
from data_prep.settings import PrepareSettings
from data_prep.shards import write_shards
from data_prep.source import Source
from data_prep.split_file import SplitFile
from data_prep.workdir import Workdir
from data_prep.workers import available_cores, run_tasks
from osteojax.progress import progress

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be prepared.

    Attributes:
        listed: the source.
        clean: file -> the same image without noise, of a phantom.
        spec: what is done with each image.
        settings: of the preparation.
        workdir: where the work is done.
        store: address of the object store that the source was copied from, for workers elsewhere; None for a disk.
        table: that gives the splits; None where the source or the deal does.
    """

    listed: Source
    clean: Mapping[str, Path]
    spec: PreprocessSpec
    settings: PrepareSettings
    workdir: Workdir
    store: str | None = None
    table: SplitFile | None = None

    @property
    def total(self) -> int:
        """Files of the source, usable or not."""
        return len(self.listed.records) + len(self.listed.rejected)

    @property
    def looks_at_images(self) -> bool:
        """Whether the audit needs more of an image than its record."""
        return self.settings.audit.near_duplicates or self.settings.audit.shortcuts

    def task(self, index: int, cache: Path | str) -> ImageTask:
        """That of one record, whose image goes to `cache`."""
        file = self.listed.records[index].file
        return ImageTask(
            Path(file) if self.store else self.listed.root / file,
            self.clean.get(file),
            self.spec,
            self.settings.limits.of_decoding,
            cache,
            self.workdir.secret,
            self.store,
            name=shown_as(self.settings, self.workdir.secret)(file),
            burned_in=self.settings.privacy.burned_in,
            dated=self.settings.dated,
        )

    def check(self, gathered: Gathered) -> None:
        """Raises UserError where too many files cannot be used; see `check_quarantine`."""
        allowed = self.settings.quarantine.max_fraction
        check_quarantine(gathered.rejected, self.total, self.workdir.folder, allowed)

    def description(self, plan: Plan) -> dict[str, Any]:
        """The data set's metadata."""
        return {
            "preprocessing": self.spec.to_dict(),
            "class_names": list(self.settings.class_names),
            **plan.identity,
            "split": {**self.settings.fractions, "seed": self.settings.seed, **self.settings.split.told()},
        }


# Writes the data set to the job's `workdir.result` and says what it holds.
Runner = Callable[[Job], Plan]


def run_locally(job: Job) -> Plan:
    """Prepares with the cores of this machine."""
    gathered = gather_locally(job)
    plan = make_plan(gathered, audit_locally(job, gathered), job.settings, job.workdir.cache, job.table)
    keys = plan.image_keys
    write_shards(
        job.workdir.result,
        plan.splits,
        lambda example: load_image(plan.cache, keys[example.id]),
        image_size=job.settings.image_size,
        class_names=job.settings.class_names,
        description=job.description(plan),
        channels=job.spec.channels,
    )
    return plan


def gather_locally(job: Job) -> Gathered:
    """Runs the task of every record; the result does not depend on the number of workers.

    Raises:
        UserError: too many files cannot be used.
    """
    settings = job.settings
    tasks = [job.task(index, job.workdir.cache) for index in range(len(job.listed.records))]
    outcomes: list[Outcome | None] = [None] * len(tasks)
    failures = len(job.listed.rejected)
    workers = 0 if job.spec.denoise.in_parent else min(worker_count(settings), len(tasks))
    with progress("preparing images", len(tasks)) as advance:
        for index, outcome in run_tasks(prepare_image, tasks, workers, seconds=settings.limits.seconds):
            outcomes[index] = outcome
            failures += isinstance(outcome, Failure)
            advance()
            if failures > settings.quarantine.max_fraction * job.total:
                break
    gathered = gather(job.listed, outcomes, settings, job.workdir.secret)
    job.check(gathered)
    return gathered


def audit_locally(job: Job, gathered: Gathered) -> Audit:
    """Copies, contradictions and shortcuts; near duplicates are sought on the prepared images."""
    log.info("auditing %d images", len(gathered.images))
    return audit_records(
        gathered.audit_records,
        lambda index: load_image(job.workdir.cache, gathered.images[index].prepared.key)[..., 0],
        near_duplicates=job.settings.audit.near_duplicates,
        shortcuts=job.settings.audit.shortcuts,
        seed=job.settings.seed,
    )


def worker_count(settings: PrepareSettings) -> int:
    """Worker processes; 0 for none."""
    return available_cores() if settings.workers < 0 else settings.workers
