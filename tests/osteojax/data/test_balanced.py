"""Oversampling: classes of equal size, each example as often as its class needs, on any number of hosts."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osteojax.data.balanced import Balanced
from osteojax.data.batches import BatchPlan, train_iterator
from osteojax.data.dataset import Examples

LABELS = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 0])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_classes_are_equal_in_each_epoch_and_examples_within_their_class(labels, seed):
    order = Balanced(labels, seed)
    largest = max(Counter(labels).values())
    assert len(order) == largest * len(set(labels))
    for epochs in (1, 3):
        drawn = [order[p] for p in range(epochs * len(order))]
        of_class = Counter(labels[i] for i in drawn)
        assert set(of_class.values()) == {epochs * largest}
        times = Counter(drawn)
        for label in set(labels):
            counts = [times[i] for i, of in enumerate(labels) if of == label]
            assert max(counts) - min(counts) <= 1


def test_the_order_is_a_function_of_the_seed_and_new_in_each_epoch():
    epochs = [[Balanced(LABELS, 3)[p + e * 24] for p in range(24)] for e in (0, 1, 0)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert epochs[0] != [Balanced(LABELS, 4)[p] for p in range(24)]


class Source(Examples):
    """Notes what is read of it."""

    def __init__(self):
        self.seen = set()

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, i):
        return {"image": np.full((2, 2, 1), i, np.float32), "label": LABELS[i]}

    def __getitems__(self, indices):
        self.seen |= set(indices)
        return [self[i] for i in indices]


@pytest.mark.parametrize("hosts", [1, 2])
def test_batches_follow_the_order_and_each_host_reads_only_its_rows(hosts):
    order = Balanced(LABELS, 1)
    parts = []
    for host in range(hosts):
        source, plan = Source(), BatchPlan(len(order), 4, 2, host, hosts)
        batches = list(train_iterator(source, plan, seed=1, steps=6, threads=0, order=order))
        parts.append([batch["index"] for batch in batches])
        assert source.seen <= set(np.concatenate(parts[-1]))
    rows = np.concatenate([np.concatenate(step) for step in zip(*parts, strict=True)])
    assert rows.tolist() == [order[p] for p in range(24)]
