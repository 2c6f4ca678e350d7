"""The device mesh and where each array lives on it.

One mesh with two axes. `data` splits the batch; `fsdp` splits the batch too, and in addition the parameters,
their optimizer moments and their averages. Everything runs under `jax.jit` with these shardings: the program is
written for the global batch, and XLA inserts the collectives. A `pmap` path would add nothing to that.

Of several TPU slices, which only the data centre's network (DCN) joins, `data` counts slice by slice and `fsdp` stays
within one: the compiler then reduces a gradient within each slice first, and sends each chip's share of it between
them.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from osteojax.errors import UserError

# Splitting a tensor smaller than this costs more in collectives than it saves in memory.
SMALLEST_SPLIT = 2**14


def make_mesh(data: int = -1, fsdp: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of `data` x `fsdp` devices; -1 for `data` takes all that there are.

    Raises:
        UserError: the devices cannot be laid out so.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise UserError(
            f"mesh.fsdp={fsdp} does not divide the {len(devices)} devices present; choose a divisor"
        )
    data = len(devices) // fsdp if data == -1 else data
    if data < 1 or data * fsdp > len(devices) or (data * fsdp < len(devices) and jax.process_count() > 1):
        raise UserError(
            f"mesh.data={data} x mesh.fsdp={fsdp} does not fit the {len(devices)} devices present; "
            "use mesh.data=-1 to take all of them"
        )
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        # Of GPUs JAX numbers the hosts so; they are one slice here.
        index = getattr(device, "slice_index", None) if device.platform == "tpu" else None
        slices.setdefault(index or 0, []).append(device)
    if any(len(members) % fsdp for members in slices.values()):
        raise UserError(
            f"mesh.fsdp={fsdp} does not divide the {len(slices[min(slices)])} devices of a slice; parameters are not "
            "split over the network between slices"
        )
    devices = [device for index in sorted(slices) for device in slices[index]]
    return Mesh(np.asarray(devices[: data * fsdp]).reshape(data, fsdp), ("data", "fsdp"))


def batch_sharding(mesh: Mesh, *, steps: bool = False) -> NamedSharding:
    """The leading axis of a batch, over all devices; with `steps` the one behind it, of several steps' batches."""
    rows = ("data", "fsdp")
    return NamedSharding(mesh, PartitionSpec(None, rows) if steps else PartitionSpec(rows))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(mesh: Mesh, tree: Any) -> Any:
    """For each array of the tree: its largest axis that `fsdp` divides is split, small arrays are replicated.

    The rule looks at shapes alone, so a parameter, its moments and its average always lie alike.
    """

    def place(x: Any) -> NamedSharding:
        size = mesh.shape["fsdp"]
        axes = [axis for axis in range(x.ndim) if x.shape[axis] % size == 0]
        if size == 1 or not axes or x.size < SMALLEST_SPLIT:
            return replicated(mesh)
        split = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(
            mesh, PartitionSpec(*("fsdp" if axis == split else None for axis in range(x.ndim)))
        )

    return jax.tree.map(place, tree)
