"""Orbax checkpoints: all that a run needs to go on exactly, or to be evaluated anywhere.

One composite checkpoint per step. `params`, `batch_stats`, `ema` and `opt_state` are arrays; `record` is JSON: the
config, the preprocessing of the data, class names, dataset fingerprint, position of the data iterator, early
stopping, and a checksum of every array. Orbax writes in the background and commits by renaming, so an interrupted
save never looks like a checkpoint; but it does not notice a bit that flipped on disk. The checksums do.
"""

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from osteojax.errors import UserError
from osteojax.run.state import TrainState

log = logging.getLogger(__name__)

ARRAYS = ("params", "batch_stats", "ema", "opt_state")


class DamagedCheckpoint(Exception):
    """A checkpoint whose arrays are not the ones that were saved."""


def checksums(tree: Any, *, mixed: bool = True) -> dict[str, int]:
    """Name -> 32-bit checksum of every array of the tree; the same on any number of devices and hosts.

    Args:
        tree: of arrays.
        mixed: False for the sums of earlier releases, which did not notice an even number of flipped signs.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = np.asarray([_local_checksum(x, mixed=mixed) for _, x in leaves], np.uint32)
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(sums).sum(0, dtype=np.uint32)
    return {jax.tree_util.keystr(path): int(value) for (path, _), value in zip(leaves, sums, strict=True)}


def _local_checksum(x: jax.Array, *, mixed: bool) -> np.uint32:
    """The part of an array's checksum that this process holds: the sum over its elements of bits mixed with place.

    As it depends on the element's place in the whole array, and the sum is one of integers, the layout over devices
    does not matter. Before they are added, an element's bits are mixed so that each of them moves about half of the
    sum's (the finaliser of MurmurHash3): in a plain weighted sum two flipped signs cancel.
    """
    total = np.uint32(0)
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            place = np.arange(x.size, dtype=np.uint32).reshape(x.shape)[shard.index]
            bits = np.ascontiguousarray(shard.data).view(f"u{x.dtype.itemsize}").astype(np.uint32)
            weight = 2 * place + np.uint32(1)
            bits = bits.reshape(place.shape)
            terms = _mix(bits ^ _mix(weight)) if mixed else bits * weight
            total = np.add(total, np.sum(terms, dtype=np.uint32), dtype=np.uint32)
    return total


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = bits ^ (bits >> np.uint32(16))
    bits = bits * np.uint32(0x85EBCA6B)
    bits = bits ^ (bits >> np.uint32(13))
    bits = bits * np.uint32(0xC2B2AE35)
    return bits ^ (bits >> np.uint32(16))


def is_better(mode: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best` where `mode` is "max" or "min"; every number beats None, NaN beats nothing."""
    if math.isnan(value):
        return False
    return best is None or math.isnan(best) or (value > best if mode == "max" else value < best)


def _ranked(value: float) -> float:
    return -math.inf if math.isnan(value) else value  # NaN last


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they lie, a folder per step.
        metric: name of the validation metric that ranks them; None for reading only.
        mode: "max" or "min".
        keep: how many of the newest are kept, beside the best.
    """

    def __init__(
        self, directory: Path, *, metric: str | None = None, mode: str = "max", keep: int = 2
    ) -> None:
        self._directory = directory.absolute()
        self._metric, self._mode = metric, mode
        writing = metric is not None
        sign = 1 if mode == "max" else -1
        best = preservation_policy.BestN(
            # Of equals the earliest, as `is_better` has it.
            get_metric_fn=lambda metrics: (_ranked(sign * metrics[metric]), -metrics["step"]),
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: _ranked(sign * metrics[metric]),  # without it Orbax stores no metrics
                preservation_policy=preservation_policy.AnyPreservationPolicy(
                    [preservation_policy.LatestN(n=keep), best]
                ),
                cleanup_tmp_directories=writing,
                create=writing,
                read_only=not writing,
                enable_async_checkpointing=writing,
            ),
        )

    def save(self, state: TrainState, record: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
        """Starts saving; returns once the arrays are copied. An error of an earlier save is raised here.

        `metrics` are the validation metrics of this very step, or None where it was not evaluated.
        """
        arrays = {name: getattr(state, name) for name in ARRAYS if getattr(state, name) is not None}
        record = {
            **record,
            "step": int(state.step),
            "checksums": {name: checksums(tree) for name, tree in arrays.items()},
            "checksums_mixed": True,
        }
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
            UserError: there is no checkpoint.
        """
        best = None
        for step in self.steps():
            try:
                ranking = self.record(step)["best"]
            except DamagedCheckpoint as error:  # the others are good all the same
                log.warning("%s; it is passed over", error)
                continue
            if ranking["step"] == step and is_better(ranking["mode"], ranking["value"], best and best[1]):
                best = (step, ranking["value"])
        if best is None:
            return self._newest()
        return best[0]

    def _newest(self) -> int:
        if not self.steps():
            raise UserError(
                f"no checkpoint in {self._directory}; train first, or check the path of the workdir"
            )
        return self.steps()[-1]

    def record(self, step: int) -> dict[str, Any]:
        """The JSON part of the checkpoint of a step.

        Raises:
            DamagedCheckpoint: it cannot be read.
        """
        return self._read(step, record=ocp.args.JsonRestore())["record"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and TensorStore raise bare Exceptions for what they cannot read
            raise DamagedCheckpoint(
                f"checkpoint {self._directory}/{step} cannot be read: {_first_line(error)}"
            ) from error

    def restore(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """The named arrays of a step, laid out and typed as the `jax.ShapeDtypeStruct`s of `like`.

        Raises:
            DamagedCheckpoint: they cannot be read, or are not what was saved.
        """
        record = self.record(step)
        held = {name: tree for name, tree in like.items() if jax.tree.leaves(tree)}
        restored = self._read(step, **{name: ocp.args.StandardRestore(tree) for name, tree in held.items()})
        arrays = {name: restored[name] if name in held else tree for name, tree in like.items()}
        for name in held:
            mixed = record.get("checksums_mixed", False)
            if checksums(arrays[name], mixed=mixed) != record["checksums"][name]:
                raise DamagedCheckpoint(
                    f"checkpoint {self._directory}/{step}: the arrays of {name!r} are not those that were saved"
                )
        return arrays

    def set_aside(self, step: int) -> None:
        """Moves a damaged checkpoint out of the way, so that its step can be saved again and nothing is lost."""
        if jax.process_index() == 0:
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def shapes_on(tree: Any, shardings: Any) -> Any:
    """Shapes and dtypes of a tree with the given shardings: what `Checkpoints.restore` wants."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
