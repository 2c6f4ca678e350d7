"""A run in stages: `config.pretrain` is the config of an earlier run, whose best checkpoint this one starts from.

The earlier stage is a run like any other, in `WORKDIR/stage1`, and may have one before it, in `WORKDIR/stage1/stage1`.
"""

import logging
from pathlib import Path

import jax
import ml_collections

from osteojax.devices.agreement import from_first, shared_errors
from osteojax.errors import UserError
from osteojax.run.learned import learned_from
from osteojax.storage import EARLIER, committed_steps
from osteojax.train.experiment import opened
from osteojax.train.loop import Preempted, train
from osteojax.train.transfer import check_overlap

log = logging.getLogger(__name__)


def train_stages(
    config: ml_collections.ConfigDict,
    workdir: Path,
    *,
    shared: bool = True,
    force: bool = False,
    profile: bool = False,
) -> int:
    """Trains what `config.pretrain` asks for, unless that is done, and then the run itself.

    Once the run itself has a checkpoint, the earlier stage is not looked at any more: neither its folder nor its data
    is needed. Both configs are checked before anything is written.

    Args:
        config: as in configs/.
        workdir: as of `osteojax.train.loop.train`, like the rest; `profile` is of the run itself.

    Returns:
        Steps done in this start, of all stages.

    Raises:
        UserError: as `train`; or the stages do not fit one another.
        Preempted: as `train`; or each process has a folder of its own, of which only the first has the earlier stage.
    """
    steps = 0
    if config.get("pretrain") and not _has_begun(workdir):
        with shared_errors():
            check_stages(config)
        log.info("first the run in %s, then the one that starts from it", workdir / EARLIER)
        steps = train_stages(config.pretrain, workdir / EARLIER, shared=shared, force=force)
        if steps and not shared and jax.process_count() > 1:
            raise Preempted(
                "the earlier stage is done; start the same command again: then all processes get it"
            )
    return steps + train(config, workdir, shared=shared, force=force, profile=profile)


def _has_begun(workdir: Path) -> bool:
    here = [step for step in committed_steps(workdir) if "/" not in step]
    return bool(from_first(" ".join(here)))


def check_stages(config: ml_collections.ConfigDict) -> None:
    """Raises UserError where the stages do not fit their data or one another, for whatever number of them."""
    (before, earlier), (experiment, dataset) = opened(config.pretrain), opened(config)
    if before.model.name != experiment.model.name:
        raise UserError(
            f"pretrain.model.name={before.model.name!r} and model.name={experiment.model.name!r}: the second stage "
            "goes on with the network of the first; give both one name"
        )
    learned = learned_from(earlier, before.tested, before.eval.split)
    check_overlap(learned, "pretrain", experiment, dataset)
