"""Splitting: nothing crosses, every class keeps its ratio, nothing but the seed decides."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data_prep.split import assign_splits, connected_groups, missing_classes
from osteojax.errors import UserError

THIRDS = {"train": 0.7, "val": 0.15, "test": 0.15}


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=3), min_size=1, max_size=30))
@settings(max_examples=80, deadline=None)
def test_groups_are_the_connected_components(keys):
    found = connected_groups(keys)
    edges = [(i, j) for i, j in itertools.combinations(range(len(keys)), 2) if set(keys[i]) & set(keys[j])]
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(len(keys), len(keys)))
    _, expected = connected_components(graph, directed=False)
    pairs = itertools.combinations(range(len(keys)), 2)
    assert all((found[i] == found[j]) == (expected[i] == expected[j]) for i, j in pairs)
    assert all(found[i] <= i and found[found[i]] == found[i] for i in range(len(keys)))


# Groups of one class each: (class, size).
pure_groups = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), min_size=12, max_size=60)
shares = st.sampled_from([THIRDS, {"train": 0.8, "test": 0.2}, {"train": 0.8, "val": 0.0, "test": 0.2}])


def images_of(groups):
    labels = [label for label, size in groups for _ in range(size)]
    names = [f"g{i}" for i, (_, size) in enumerate(groups) for _ in range(size)]
    return labels, names


@given(pure_groups, shares, st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_no_group_is_divided_and_every_class_keeps_its_ratio(groups, fractions, seed):
    labels, names = images_of(groups)
    splits = assign_splits(labels, names, fractions, seed=seed)
    by_group = {}
    for name, split in zip(names, splits, strict=True):
        assert by_group.setdefault(name, split) == split
    active = [name for name, share in fractions.items() if share]
    for label in set(labels):
        sizes = [size for group_label, size in groups if group_label == label]
        enough = len(sizes) >= 3 * len(active)
        for split in active:
            count = sum(
                1 for one, where in zip(labels, splits, strict=True) if (one, where) == (label, split)
            )
            # A move that gives a split its first image of a class may add one group to the bound.
            assert abs(count - fractions[split] * sum(sizes)) <= 2 * max(sizes)
            if enough:
                assert count > 0


def test_single_images_reach_the_exact_ratios():
    labels = ["a"] * 100 + ["b"] * 40 + ["c"] * 20
    splits = assign_splits(labels, [str(i) for i in range(160)], THIRDS, seed=0)
    counts = {
        (label, split): sum(pair == (label, split) for pair in zip(labels, splits, strict=True))
        for label in "abc"
        for split in THIRDS
    }
    expected = {"a": (70, 15, 15), "b": (28, 6, 6), "c": (14, 3, 3)}
    assert counts == {(c, s): n for c, ns in expected.items() for s, n in zip(THIRDS, ns, strict=True)}


@given(pure_groups, st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_the_images_does_not_matter(groups, random):
    labels, names = images_of(groups)
    order = list(range(len(labels)))
    random.shuffle(order)
    first = assign_splits(labels, names, THIRDS, seed=1)
    second = assign_splits([labels[i] for i in order], [names[i] for i in order], THIRDS, seed=1)
    assert [first[i] for i in order] == second


def test_the_seed_decides():
    names = [str(i) for i in range(60)]
    labels = ["a", "b"] * 30
    one, again, other = (assign_splits(labels, names, THIRDS, seed=s) for s in (0, 0, 1))
    assert one == again != other


def test_groups_of_several_classes_stay_whole_and_the_rest_makes_up_for_them():
    labels = ["a", "b"] * 20 + ["a"] * 40 + ["b"] * 40
    names = ["mixed"] * 40 + [f"x{i}" for i in range(80)]
    splits = assign_splits(labels, names, {"train": 0.5, "test": 0.5}, seed=0)
    assert len(set(splits[:40])) == 1
    for label in "ab":
        assert sum(pair == (label, "test") for pair in zip(labels, splits, strict=True)) == 30


def test_what_classes_leave_over_is_spread_over_the_folds():
    """Seven patients of each of three classes in five folds: two each would be fifteen; the six others go round."""
    labels = [name for name in "abc" for _ in range(7)]
    names = [str(i) for i in range(21)]
    folds = {f"fold{k}": 0.2 for k in range(5)}
    for seed in range(5):
        splits = assign_splits(labels, names, folds, seed=seed)
        counts = [splits.count(fold) for fold in folds]
        assert max(counts) - min(counts) <= 1
        for name in "abc":
            assert all(1 <= sum(p == (name, f) for p in zip(labels, splits, strict=True)) <= 2 for f in folds)


def test_a_rare_class_reaches_every_split():
    labels = ["a"] * 50 + ["b"] * 3
    splits = assign_splits(labels, [str(i) for i in range(53)], THIRDS, seed=0)
    assert sorted(splits[50:]) == ["test", "train", "val"]
    assert missing_classes(labels, splits) == {}
    splits = assign_splits(labels[:52], [str(i) for i in range(52)], THIRDS, seed=0)
    assert len(missing_classes(labels[:52], splits)) == 1


def test_given_splits_are_respected_and_the_rest_fills_up():
    labels = ["a"] * 20
    names = [str(i) for i in range(20)]
    demanded = ["test"] * 4 + [None] * 16
    splits = assign_splits(labels, names, {"train": 0.8, "test": 0.2}, seed=0, given=demanded)
    assert splits == ["test"] * 4 + ["train"] * 16
    # A split that the fractions leave out is kept where it is given.
    splits = assign_splits(labels, names, {"train": 1.0}, seed=0, given=["val"] + [None] * 19)
    assert splits == ["val"] + ["train"] * 19


def test_a_group_on_two_given_sides_is_an_error_that_names_the_files():
    with pytest.raises(UserError, match=r"x\.png \(train\) and z\.png \(test\)"):
        assign_splits(
            ["a"] * 3,
            ["p", "q", "p"],
            THIRDS,
            seed=0,
            given=["train", None, "test"],
            files=["x.png", "y.png", "z.png"],
        )


@pytest.mark.parametrize(
    "fractions",
    [{"train": 0.7, "test": 0.2}, {"train": 1.2, "test": -0.2}, {"train": 0.0, "test": 1.0}, {"test": 1.0}],
)
def test_impossible_fractions(fractions):
    with pytest.raises(UserError, match="add up to 1"):
        assign_splits(["a"], ["g"], fractions, seed=0)
