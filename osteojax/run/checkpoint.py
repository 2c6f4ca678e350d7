"""Orbax checkpoints: all that a run needs to go on exactly, or to be evaluated anywhere.

One composite checkpoint per step. `params`, `batch_stats`, `ema`, `ema_batch_stats` and `opt_state` are arrays;
`record` is JSON: the config, the preprocessing of the data, class names, dataset fingerprint, position of the data
iterator, early stopping, and shape, dtype and CRC-32 of every array, with a CRC-32 of itself. Orbax writes in the
background and commits by renaming, so an interrupted save never looks like a checkpoint; but it does not notice a bit
that flipped on disk. The CRCs do.

Three things that can be wrong are kept apart: a checkpoint that is damaged, one that cannot be read just now, and one
that is whole but of another structure.
"""

import json
import logging
import math
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from osteojax.devices.agreement import any_process
from osteojax.devices.mesh import replicated
from osteojax.errors import UserError
from osteojax.run.crc import crc32_of_tree
from osteojax.run.state import TrainState

log = logging.getLogger(__name__)
T = TypeVar("T")

ARRAYS = ("params", "batch_stats", "ema", "ema_batch_stats", "opt_state")
_NEEDED = {
    "step", "config", "config_hash", "class_names", "image_shape", "preprocessing", "dataset_fingerprint", "origin",
    "iterator", "best", "pending",
}  # fmt: skip
_ATTEMPTS, _SECONDS_BETWEEN = 3, 1.0
# In the words of the operating system and of TensorStore: what may be gone the next time.
_PASSING = (
    "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "Input/output error",
    "Permission denied", "Too many open files", "Stale file handle", "Connection", "timed out",
)  # fmt: skip


class DamagedCheckpoint(Exception):
    """A checkpoint whose content is not what was saved."""


class UnreadableCheckpoint(UserError):
    """A checkpoint that could not be read this time; it may be whole."""


def is_better(mode: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best` where `mode` is "max" or "min"; every number beats None, NaN beats nothing."""
    if math.isnan(value):
        return False
    return best is None or math.isnan(best) or (value > best if mode == "max" else value < best)


def ranking_value(metrics: Mapping[str, float], metric: str) -> float:
    """The value of a metric among those saved; NaN, which ranks last, where it was not computed."""
    if metric == "cross_entropy" and metric not in metrics:
        metric = "loss"  # as releases before this one called it
    return metrics.get(metric, math.nan)


def _ranked(value: float) -> float:
    return -math.inf if math.isnan(value) else value  # NaN last


class _Manager(ocp.CheckpointManager):
    """Orbax's manager reads the metrics of all checkpoints first, and fails where one is damaged; this one goes on."""

    def metrics(self, step: int) -> Any:
        try:
            found = super().metrics(step)
            if found is None or isinstance(found, dict):
                return found
            raise ValueError("they are no JSON object")
        except ValueError as error:
            log.warning(
                "the metrics of checkpoint %d are damaged (%s); its record ranks it", step, _first_line(error)
            )
        try:
            best = json.loads((Path(self.directory) / str(step) / "record" / "metadata").read_text())["best"]
            return {best["metric"]: best["value"], "step": step} if best["step"] == step else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they lie, a folder per step.
        writes: whether it saves too, and does not only read.
        metric: name of the validation metric that ranks what is saved; None where nothing is validated.
        mode: "max" or "min".
        keep: how many of the newest are kept, beside the best.
        shared: whether all processes of the run see this directory, and each writes its part. Where they do not, the
            first writes the whole, and the others only read what lies in theirs.
        needed: keys without which a record is none.
    """

    def __init__(
        self,
        directory: Path,
        *,
        writes: bool = False,
        metric: str | None = None,
        mode: str = "max",
        keep: int = 2,
        shared: bool = True,
        needed: Collection[str] = _NEEDED,
    ) -> None:
        self._directory = directory.absolute()
        self._needed = frozenset(needed)
        self._shared = shared or jax.process_count() == 1
        if self._directory.exists() and not self._directory.is_dir():
            raise UserError(f"{self._directory} is a file, not a folder of checkpoints; move it away")
        writing = writes and (self._shared or jax.process_index() == 0)
        sign = 1 if mode == "max" else -1

        def rank(metrics: Mapping[str, float]) -> float:
            return _ranked(sign * ranking_value(metrics, metric)) if metric else -math.inf

        best = preservation_policy.BestN(
            # Of equals the earliest, as `is_better` has it.
            get_metric_fn=lambda metrics: (rank(metrics), -metrics["step"]),
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        if not self._shared:
            self._directory.mkdir(parents=True, exist_ok=True)  # Orbax makes none for some of the processes
        self._manager = _Manager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=rank if metric else None,  # without it Orbax stores no metrics
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [preservation_policy.LatestN(n=keep), best]
                ),
                cleanup_tmp_directories=writing,
                create=writing and self._shared,
                read_only=not writing,
                enable_async_checkpointing=writing,
                multiprocessing_options=_by_itself()
                if not self._shared
                else ocp.options.MultiprocessingOptions(),
            ),
        )

    def save(self, state: TrainState, record: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Starts saving; returns once the arrays are copied. An error of an earlier save is raised here.

        `metrics` are the validation metrics of this very step, or None where it was not evaluated.
        """
        arrays = {name: getattr(state, name) for name in ARRAYS if getattr(state, name) is not None}
        record = sealed(
            {**record, "step": int(state.step), "arrays": {n: described(tree) for n, tree in arrays.items()}}
        )
        if not self._shared:
            arrays = whole(arrays)
            if jax.process_index() > 0:
                return
        self._manager.save(
            record["step"],
            args=ocp.args.Composite(
                record=ocp.args.JsonSave(record),
                **{
                    name: ocp.args.StandardSave(tree)
                    for name, tree in arrays.items()
                    if jax.tree.leaves(tree)
                },
            ),
            metrics={**metrics, "step": record["step"]} if metrics is not None else None,
        )

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int:
        """The step that validation ranks first; the newest where none was validated.

        Raises:
            UserError: there is no checkpoint, or the best is lost.
        """
        for step in reversed(self.steps()):
            try:
                best = self.record(step)["best"]["best_step"]
            except DamagedCheckpoint as error:  # the others are good all the same
                log.warning("%s; it is passed over", error)
                continue
            if best is None:
                return step
            if best not in self.steps():
                raise UserError(
                    f"the best checkpoint, of step {best}, is not in {self._directory}; choose another with --step: "
                    f"{', '.join(map(str, self.steps()))}"
                )
            return int(best)
        raise UserError(f"no checkpoint in {self._directory} can be read; train first, or check the path")

    def validated(self) -> dict[int, dict[str, float]]:
        """Step -> validation metrics, of the checkpoints that have some, in the order of the steps."""
        found = {step: self._manager.metrics(step) for step in self.steps()}
        return {step: dict(metrics) for step, metrics in found.items() if metrics}

    def record(self, step: int) -> dict[str, Any]:
        """The JSON part of the checkpoint of a step.

        Raises:
            DamagedCheckpoint: it is not what was saved.
            UnreadableCheckpoint: it could not be read this time.
        """
        record = self._read(step, record=ocp.args.JsonRestore())["record"]
        if not isinstance(record, dict) or not record.keys() >= self._needed:
            raise DamagedCheckpoint(f"checkpoint {self._directory}/{step}: its record is not one")
        if "crc32" not in record:
            log.info("checkpoint %s is of an earlier release and holds no CRC: it is taken as it is", step)
        elif record["crc32"] != sealed(record)["crc32"]:
            raise DamagedCheckpoint(f"checkpoint {self._directory}/{step}: its record is not the one saved")
        return record

    def restore(self, step: int, like: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
        """The named arrays of a step, laid out and typed as the `jax.ShapeDtypeStruct`s of `like`.

        Args:
            step: of the checkpoint.
            like: name of `ARRAYS` -> tree.
            record: of the same step.

        Raises:
            DamagedCheckpoint: they are not what was saved.
            UnreadableCheckpoint: they could not be read this time.
            UserError: they are of another structure.
        """
        held = {name: tree for name, tree in like.items() if jax.tree.leaves(tree)}
        saved = record.get("arrays", {})
        for name, tree in held.items():
            if "crc32" in record and saved.get(name, {}).keys() != shapes(tree).keys():
                raise UserError(self._misfit(step, name))
            for path, of in shapes(tree).items():
                if "crc32" in record and saved[name][path] | of != saved[name][path]:
                    raise UserError(self._misfit(step, f"{name}{path}"))
        restored = self._read(step, **{name: ocp.args.StandardRestore(tree) for name, tree in held.items()})
        arrays = {name: restored[name] if name in held else tree for name, tree in like.items()}
        for name in held:
            if "crc32" in record and described(arrays[name]) != saved[name]:
                raise DamagedCheckpoint(
                    f"checkpoint {self._directory}/{step}: the arrays of {name!r} are not those that were saved"
                )
        return arrays

    def _misfit(self, step: int, what: str) -> str:
        return (
            f"checkpoint {self._directory}/{step} is whole, but its {what} is not what this config's network has; "
            "use the config that it was trained with, or another --workdir"
        )

    def _read(self, step: int, **items: Any) -> Any:
        where = f"checkpoint {self._directory}/{step}"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._manager.restore(step, args=ocp.args.Composite(**items))
            except (
                Exception
            ) as error:  # Orbax and TensorStore raise bare Exceptions for what they cannot read
                if not _may_pass(error):
                    raise DamagedCheckpoint(f"{where} cannot be read: {_first_line(error)}") from error
                if attempt == _ATTEMPTS:
                    raise UnreadableCheckpoint(
                        f"{where} cannot be read just now ({_first_line(error)}); nothing was changed: see to the "
                        "disk and start the same command again"
                    ) from error
                log.warning("%s: %s; trying again", where, _first_line(error))
                time.sleep(_SECONDS_BETWEEN)
        raise AssertionError

    def newest(self, restore: Callable[[int], T]) -> T | None:
        """What `restore` makes of the newest step that is whole, all processes alike; None where there is none.

        A damaged one is moved aside with a warning.

        Raises:
            UserError: whatever `restore` raises but `DamagedCheckpoint`.
        """
        for step in reversed(self.steps()):
            damage, restored = None, None
            try:
                restored = restore(step)
            except DamagedCheckpoint as error:
                damage = error
            # Together: a process that alone went back would wait for the others for ever.
            if not any_process(damage is not None):
                return restored
            log.warning(
                "%s; going back to the one before", damage or f"checkpoint {step} is damaged elsewhere"
            )
            self.set_aside(step)
        return None

    def set_aside(self, step: int) -> None:
        """Moves a damaged checkpoint out of the way, so that its step can be saved again and nothing is lost."""
        if not self._shared or jax.process_index() == 0:
            aside = self._directory.parent / "damaged"
            aside.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(aside / f"{step}-{time.time_ns()}")
        multihost_utils.sync_global_devices("damaged checkpoint set aside")
        self._manager.reload()

    def wait(self) -> None:
        """Returns when every save is committed; raises what went wrong in the background."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the manager."""
        self.wait()
        self._manager.close()


def _by_itself() -> ocp.options.MultiprocessingOptions:
    """For a manager that waits for no other process."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )


def whole(tree: Any) -> Any:
    """Every array of the tree entire, as numpy, on the first process; all processes must call it."""
    leaves, treedef = jax.tree.flatten(tree)
    if not all(x.is_fully_replicated for x in leaves):
        mesh = next(x.sharding.mesh for x in leaves if not x.is_fully_replicated)
        leaves = jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))(leaves)
    if jax.process_index() > 0:
        return tree
    return jax.tree.unflatten(treedef, [np.asarray(x.addressable_data(0)) for x in leaves])


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON gives it back, with the CRC-32 of its canonical text."""
    plain = json.loads(json.dumps({key: value for key, value in record.items() if key != "crc32"}))
    return {**plain, "crc32": zlib.crc32(json.dumps(plain, sort_keys=True).encode())}


def shapes(tree: Any) -> dict[str, dict[str, Any]]:
    """Path -> shape and dtype of every array."""
    return {
        jax.tree_util.keystr(path): {"shape": list(x.shape), "dtype": str(x.dtype)}
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def described(tree: Any) -> dict[str, dict[str, Any]]:
    """Path -> shape, dtype and CRC-32 of every array."""
    sums = crc32_of_tree(tree)
    return {path: {**of, "crc32": sums[path]} for path, of in shapes(tree).items()}


def _may_pass(error: BaseException) -> bool:
    """Whether the cause lies in the disk, the network or memory, and not in what was read."""
    while True:
        lasting = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if isinstance(error, OSError | MemoryError) and not lasting:
            return True
        if any(words in str(error) for words in _PASSING):
            return True
        cause = error.__cause__ or error.__context__
        if cause is None:
            return False
        error = cause


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def shapes_on(tree: Any, shardings: Any) -> Any:
    """Shapes and dtypes of a tree with the given shardings: what `Checkpoints.restore` wants."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
