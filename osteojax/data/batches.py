"""From ArrayRecord shards to global batches, the same for any number of hosts and devices.

The batch of a step is a pure function of (seed, step): every epoch is one permutation of the split, cut into
global batches, of which each host reads only the rows that its devices hold. The last batch of an epoch is padded
with rows of mask 0, so that every example counts once an epoch and no shape ever changes.
"""

import dataclasses

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from osteojax.data.dataset import Examples
from osteojax.data.order import InOrder, Order, Shuffled

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """How a split is cut into global batches, and the rows of each that this host feeds.

    Attributes:
        examples: N, the size of the split.
        batch_size: examples in a full global batch; independent of the number of devices.
        devices: how many devices share a batch; rows are padded up to a multiple of it.
        host: index of this process.
        hosts: number of processes.
    """

    examples: int
    batch_size: int
    devices: int = 1
    host: int = 0
    hosts: int = 1

    @property
    def steps(self) -> int:
        """Batches that cover the split once."""
        return -(-self.examples // self.batch_size)

    @property
    def rows(self) -> int:
        """Rows of every global batch, padding included."""
        return -(-self.batch_size // self.devices) * self.devices

    def positions(self, step: int) -> tuple[np.ndarray, int]:
        """Positions in the endless order of what this host feeds to global batch `step`, and rows of padding behind it.

        Position p is the (p mod N)-th example of epoch p // N.
        """
        epoch, index = divmod(step, self.steps)
        end = min(self.batch_size, self.examples - index * self.batch_size)
        held = self.rows // self.hosts
        mine = np.arange(self.host * held, min((self.host + 1) * held, end))
        return epoch * self.examples + index * self.batch_size + mine, held - len(mine)


class HostBatches(grain.MapDataset):
    """Element `step` is this host's part of global batch `step`."""

    def __init__(self, order: Order, source: Examples, plan: BatchPlan, steps: int) -> None:
        super().__init__()
        self._order = order
        self._source, self._element = source, source.element()
        self._plan = plan
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        """image (rows, ...), label (rows,) int32, mask (rows,) float32, index (rows,) int32.

        `image` is what the source has of each example: pixels (H, W, C) float32 in [0, 1], or uint16 where they are
        packed (`osteojax.data.pixels`), or activations. `index` is the example's place in the split. What the source
        has beside its inputs follows by name. Padding rows are zero, and their index is -1.
        """
        positions, padding = self._plan.positions(step)
        indices = self._order[positions].tolist()
        if indices:
            view = step // self._plan.steps % self._source.views
            image, label = self._source.read(indices, view)
        else:  # a host whose rows are all padding
            shape, dtype = self._element
            image, label = np.zeros((0, *shape), dtype), np.zeros(0, np.int32)
        real = {
            "image": image,
            "label": label,
            "mask": np.ones(len(indices), np.float32),
            "index": np.asarray(indices, np.int32),
            **{name: values[indices] for name, values in self._source.beside.items()},
        }
        if not padding:
            return real
        fill = {"index": -1}
        return {
            key: np.concatenate([value, np.full((padding, *value.shape[1:]), fill.get(key, 0), value.dtype)])
            for key, value in real.items()
        }


def plan_for(sharding: NamedSharding, examples: int, batch_size: int) -> BatchPlan:
    """The plan of this process for batches laid out by `sharding`."""
    return BatchPlan(
        examples, batch_size, sharding.mesh.size, host=jax.process_index(), hosts=jax.process_count()
    )


def train_iterator(
    source: Examples,
    plan: BatchPlan,
    *,
    seed: int,
    steps: int,
    threads: int = 2,
    order: Order | None = None,
) -> grain.DatasetIterator:
    """Batches 0 .. steps - 1; `get_state()`/`set_state()` hold the position and nothing else.

    They are shuffled, or in an `order` of example numbers whose epochs have the length of the plan's.
    """
    order = order or Shuffled(plan.examples, seed)
    return _iterate(HostBatches(order, source, plan, steps), threads)


def eval_iterator(source: Examples, plan: BatchPlan, *, threads: int = 2) -> grain.DatasetIterator:
    """Every example once, in the order of the split."""
    return _iterate(HostBatches(InOrder(plan.examples), source, plan, plan.steps), threads)


def _iterate(batches: HostBatches, threads: int) -> grain.DatasetIterator:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(batches.to_iter_dataset(options))


def to_devices(batch: Batch, sharding: NamedSharding) -> dict[str, jax.Array]:
    """The global batch, of which each process contributes its rows."""
    if jax.process_count() == 1:  # in one call: each has its price, and a step of few rows takes no longer
        return jax.device_put(batch, sharding)
    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}
