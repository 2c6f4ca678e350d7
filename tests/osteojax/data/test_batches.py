"""The plan of batches is arithmetic: every example once an epoch, whatever the hosts and devices."""

import numpy as np
import pytest

from osteojax.data.batches import BatchPlan, eval_iterator, train_iterator
from osteojax.data.dataset import Examples


class Source(Examples):
    """Stands for a TFDS data source; the image tells which example it is."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"image": np.full((2, 2, 1), i, np.float32), "label": i % 3}

    def __getitems__(self, indices):
        return [self[i] for i in indices]


def global_order(n, batch, devices, hosts, steps, seed=1):
    """Real examples of each global batch, in row order, with every host's part put together."""
    plans = [BatchPlan(n, batch, devices, host, hosts) for host in range(hosts)]
    iterators = [train_iterator(Source(n), plan, seed=seed, steps=steps) for plan in plans]
    batches = []
    for parts in zip(*iterators, strict=True):
        index = np.concatenate([part["index"] for part in parts])
        mask = np.concatenate([part["mask"] for part in parts])
        image = np.concatenate([part["image"] for part in parts])
        assert (mask == (index >= 0)).all()
        assert (image[index >= 0, 0, 0, 0] == index[index >= 0]).all()
        assert len(index) % devices == 0
        batches.append(index[index >= 0].tolist())
    return batches


@pytest.mark.parametrize("n, batch", [(10, 4), (12, 4), (3, 8), (17, 5)])
def test_every_example_once_an_epoch_and_a_new_order_in_the_next(n, batch):
    steps = -(-n // batch)
    batches = global_order(n, batch, 1, 1, 2 * steps)
    first, second = np.concatenate(batches[:steps]), np.concatenate(batches[steps:])
    assert sorted(first) == sorted(second) == list(range(n))
    assert n < 4 or (first != second).any()


@pytest.mark.parametrize("devices, hosts", [(2, 1), (8, 1), (4, 2), (8, 4)])
def test_batches_do_not_depend_on_devices_and_hosts(devices, hosts):
    assert global_order(17, 5, devices, hosts, 8) == global_order(17, 5, 1, 1, 8)


def test_each_host_reads_only_the_rows_that_it_feeds():
    class Recording(Source):
        def __init__(self, n):
            super().__init__(n)
            self.seen = set()

        def __getitems__(self, indices):
            self.seen |= set(indices)
            return super().__getitems__(indices)

    sources = [Recording(8), Recording(8)]
    for host, source in enumerate(sources):
        list(eval_iterator(source, BatchPlan(8, 4, 4, host, 2)))
    assert sources[0].seen == {0, 1, 4, 5} and sources[1].seen == {2, 3, 6, 7}


def test_evaluation_order_is_the_order_of_the_split():
    batches = list(eval_iterator(Source(5), BatchPlan(5, 2, 2)))
    assert np.concatenate([b["index"] for b in batches]).tolist() == [0, 1, 2, 3, 4, -1]


def test_the_iterator_continues_from_its_state():
    plan = BatchPlan(10, 4)
    whole = train_iterator(Source(10), plan, seed=0, steps=9)
    expected = [next(whole)["index"].tolist() for _ in range(9)]
    first = train_iterator(Source(10), plan, seed=0, steps=9)
    for _ in range(4):
        next(first)
    again = train_iterator(Source(10), plan, seed=0, steps=9)
    again.set_state(first.get_state())
    assert [batch["index"].tolist() for batch in again] == expected[4:]


def test_the_order_is_a_function_of_the_seed():
    assert global_order(17, 5, 1, 1, 4, seed=1) != global_order(17, 5, 1, 1, 4, seed=2)
