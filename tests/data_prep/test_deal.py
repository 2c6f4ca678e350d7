"""Dealing: in no way that is not marked is a patient, a copy or a value of the column on two sides."""

import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from data_prep import strata
from data_prep.audit.audit import Audit
from data_prep.deal import deal, without_dates
from data_prep.image_task import Prepared
from data_prep.prepared import PreparedImage
from data_prep.settings import read_settings
from data_prep.source import Record
from data_prep.split import assign_splits, connected_groups
from osteojax import config as configs
from osteojax import leaky
from osteojax.errors import UserError

CLASSES = ("healthy", "osteopenia", "osteoporosis")


def asked(**split):
    config = configs.load("configs/prep/prep.py")
    for key, value in split.items():
        configs.set_value(config, f"split.{key}", value)
    return read_settings(config)


def image(number, patient, label=0, content=None, split=None, taken=None, **metadata):
    content = f"{number if content is None else content:064x}"
    record = Record(f"{number:03d}.png", CLASSES[label], patient, split, metadata)
    done = Prepared(content, content, content, 1, 40, 40, 8, 1.0, date=taken)
    return PreparedImage(record, done, patient)


def audited(images, pairs=()):
    """The audit of images whose near copies are given."""
    copies = [[("content", i.prepared.sha256)] for i in images]
    for number, pair in enumerate(pairs):
        for index in pair:
            copies[index].append(("pair", number))
    keys = [[*of, ("patient", i.patient_id)] for of, i in zip(copies, images, strict=True)]
    components = connected_groups(keys)
    names = tuple(
        min(i.patient_id for i, other in zip(images, components, strict=True) if other == mine)
        for mine in components
    )
    return Audit((), names, (), (), (), (), (), tuple(connected_groups(copies)), True)


def dealt(images, pairs=(), **split):
    return deal(images, audited(images, pairs), asked(**split))


def sides(found, splits=None):
    return {i.record.file: s for i, s in zip(found.images, splits or found.splits, strict=True)}


def divided(keys, where):
    """The keys of which two images are in different splits."""
    of = defaultdict(set)
    for file, key in keys.items():
        if file in where:
            of[key].add(where[file])
    return {key for key, splits in of.items() if len(splits) > 1}


@st.composite
def sources(draw):
    patients = draw(st.integers(8, 16))
    count = draw(st.integers(30, 60))
    drawn = []
    for number in range(count):
        patient = draw(st.integers(0, patients - 1))
        drawn.append(
            image(
                number,
                f"p{patient:02d}",
                number % 3,
                site=f"s{draw(st.sampled_from((patient % 4, patient % 4, patient % 4, 0)))}",
                date=f"20{draw(st.integers(10, 19))}-0{draw(st.integers(1, 9))}-15",
                age=str(draw(st.integers(40, 90))),
            )
        )
    pairs = draw(st.lists(st.tuples(*[st.integers(0, count - 1)] * 2), max_size=2))
    return drawn, pairs


WAYS = {
    "by patient": {},
    "joint strata": {"stratify": ("label", "site", "age")},
    "folds, repeated": {"folds": 3, "repeats": 3},
    "external": {"by": "site", "test_values": ("s1",)},
    "temporal": {"by": "date", "after": "2015-06-30"},
    "by site": {"by": "site"},
}


@pytest.mark.parametrize("way", WAYS)
@given(sources())
@settings(max_examples=25, deadline=None)
def test_no_way_divides_a_patient_or_a_copy(way, source):
    images, pairs = source
    try:
        found = dealt(images, pairs, **WAYS[way])
    except UserError as error:
        # Of such random sources some are one group, or have nothing on a side; that is told, not dealt with.
        assert any(words in str(error) for words in ("is empty", "no image is left", "no image has"))
        return
    assert found.mark is None and not any("LEAKY" in text for text in found.warnings)
    files = [i.record.file for i in images]
    for splits in (found.splits, *found.repeats):
        where = sides(found, splits)
        assert not divided({i.record.file: i.patient_id for i in images}, where)
        for one, other in pairs:
            assert len({where[files[n]] for n in (one, other) if files[n] in where}) <= 1
        assert not divided(found.groups, where)
    if way == "by site":
        assert not divided({i.record.file: i.metadata["site"] for i in images}, sides(found))
    if way in ("external", "temporal"):
        for i in found.images:
            beyond = i.metadata["site"] == "s1" if way == "external" else i.metadata["date"] > "2015-06-30"
            assert (sides(found)[i.record.file] == "test") == beyond
        reasons = {r.file for r in found.left_out}
        assert reasons | set(sides(found)) == set(files) and not reasons & set(sides(found))
    else:
        assert len(found.images) == len(images)


def test_who_is_on_both_sides_of_the_date_is_learned_from_and_not_tested():
    images = [image(n, f"p{n // 2}", n % 3, date=f"{2018 + n % 2}-05-01") for n in range(40)]
    images += [image(100 + n, f"new{n}", n % 3, date="2019-05-01") for n in range(9)]
    found = dealt(images, by="date", after="2018-12-31")
    where = sides(found)
    assert {file for file, name in where.items() if name == "test"} == {f"{100 + n}.png" for n in range(9)}
    assert [r.file for r in found.left_out] == [f"{n:03d}.png" for n in range(1, 40, 2)]
    assert "20 images of the test side are left out" in found.warnings[0]
    counts = Counter(where.values())
    assert counts["train"] + counts["val"] == 20 and abs(counts["val"] - 20 * 0.15 / 0.85) < 1.5


def test_only_the_year_of_a_date_is_written():
    images = [image(n, f"p{n}", n % 3, date=f"20{10 + n % 9}-05-01", site="a") for n in range(30)]
    chosen = asked(by="date", after="2015-01-01")
    found = deal(images, audited(images), chosen)
    assert {i.metadata["date"] for i in without_dates(found.images, chosen)} == {
        f"20{10 + n}" for n in range(9)
    }
    assert {i.metadata["site"] for i in without_dates(found.images, chosen)} == {"a"}
    # That of a DICOM header decides where the table has none, and is in nothing that is written.
    bare = [image(n, f"p{n}", n % 3, taken=f"20{10 + n % 9}0501") for n in range(30)]
    again = deal(bare, audited(bare), chosen)
    assert sides(again) == sides(found) and not any(i.metadata for i in without_dates(again.images, chosen))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"by": "scanner"}, "no column 'scanner'; its columns are: date, site"),
        ({"stratify": ("label", "hospital")}, "no column 'hospital'"),
        ({"by": "site", "test_values": ("s9",)}, "no image has site='s9'; there are s0, s1"),
        ({"by": "date", "after": "2015-06-30"}, "date=2015 does not tell whether it is after 2015-06-30"),
        ({"by": "date", "after": "1999"}, "no image is left to be learned from"),
        ({"by": "date", "after": "2030"}, "no image is left to be tested"),
        ({"by": "date", "after": "the first"}, "'the first' is no date"),
        ({"by": "date", "after": "2015-02-30"}, "is no date"),
        ({"after": "2015"}, "split.by='patient' names none"),
        ({"test_values": ("a",)}, "split.by='patient' names none"),
        ({"by": "site", "test_values": ("s1",), "after": "2015"}, "give one of them"),
        ({"by": "site", "test_values": ("s1",), "folds": 3}, "so does split.folds"),
        ({"by": "site"}, "is empty: there are 2 groups for 3 splits"),
        ({"repeats": 2}, "say how many"),
        ({"by": "image"}, "the test would measure memory"),
        ({"stratify": ()}, "name columns, and one is empty"),
    ],
)
def test_what_does_not_go_is_one_sentence(split, message):
    images = [image(n, f"p{n}", n % 3, site=f"s{n % 2}", date="2015") for n in range(30)]
    with pytest.raises(UserError, match=message):
        dealt(images, **split)


def test_an_image_without_the_value_that_decides_is_named():
    images = [image(n, f"p{n}", n % 3, site="ab"[n % 2]) for n in range(12)] + [
        image(12, "p12"),
        image(13, "p13"),
    ]
    with pytest.raises(UserError, match=r"2 images have no site, such as 012\.png, 013\.png"):
        dealt(images, by="site", test_values=("a",))
    # To be stratified by, the unknown is a level.
    assert len(dealt(images, stratify=("label", "site")).splits) == 14


def test_sites_that_a_patient_joins_stay_together():
    images = [image(n, f"p{n}", n % 3, site=f"s{n % 5}") for n in range(60)]
    images.append(image(60, "p0", site="s1"))  # who is of s0
    where = sides(dealt(images, by="site", train=0.4, val=0.3, test=0.3))
    site = {i.record.file: i.metadata["site"] for i in images}
    assert not divided({f: "s0" if s == "s1" else s for f, s in site.items()}, where)


def test_repetitions_are_other_deals_and_the_first_is_the_one_of_old():
    images = [image(n, f"p{n // 3}", n // 3 % 3) for n in range(90)]
    found = dealt(images, folds=3, repeats=4)
    assert found.splits == dealt(images, folds=3).splits
    partitions = {
        frozenset(frozenset(f for f, s in sides(found, splits).items() if s == fold) for fold in set(splits))
        for splits in (found.splits, *found.repeats)
    }
    assert len(partitions) == 4
    for splits in found.repeats:
        assert max(Counter(splits).values()) - min(Counter(splits).values()) <= 3


def test_groups_of_all_different_sizes_are_dealt_anew_too():
    groups = [name for name, size in zip("abcdefghijkl", range(4, 16), strict=True) for _ in range(size)]
    folds = {f"fold{k}": 1 / 3 for k in range(3)}
    deals = [assign_splits(["x"] * len(groups), groups, folds, seed=0, repeat=r) for r in range(6)]
    assert len({tuple(d) for d in deals}) >= 4


def test_numbers_are_levels_by_quartiles_and_the_unknown_is_one():
    values = [str(x) for x in range(100)]
    found = strata.levels(values)
    assert Counter(found) == {f"bin {n}": 25 for n in range(4)}
    assert strata.levels(["1", "2", None, "1"]) == ["1", "2", "", "1"]
    assert strata.levels([None, *values])[0] == ""
    assert strata.levels([*values, None, "left"])[-2:] == ["", "left"]


def shares_apart(labels, splits, fractions):
    """The largest difference of a class's count in a split to its share."""
    total = Counter(labels)
    counts = Counter(zip(labels, splits, strict=True))
    return max(abs(counts[c, s] - f * total[c]) for c in total for s, f in fractions.items())


def sized(rng, count):
    """Patients of one to eight images, most of one class."""
    labels, groups, sites = [], [], []
    for number in range(count):
        label, site = rng.choice(3, p=(0.5, 0.3, 0.2)), rng.integers(0, 4)
        for _ in range(rng.integers(1, 9)):
            labels.append(CLASSES[label if rng.random() < 0.8 else rng.integers(0, 3)])
            groups.append(f"g{number}")
            sites.append(f"s{site}")
    return labels, groups, sites


def test_the_deal_is_as_good_as_scikit_learns():
    ours, theirs = [], []
    for seed in range(8):
        labels, groups, _ = sized(np.random.default_rng(seed), 60)
        fractions = {f"fold{k}": 0.2 for k in range(5)}
        ours.append(shares_apart(labels, assign_splits(labels, groups, fractions, seed=seed), fractions))
        splits = np.empty(len(labels), object)
        other = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for fold, (_, tested) in enumerate(other.split(labels, labels, groups)):
            splits[tested] = f"fold{fold}"
        theirs.append(shares_apart(labels, splits.tolist(), fractions))
    # In images of the class that is furthest from its share.
    assert np.mean(ours) <= np.mean(theirs) and max(ours) <= max(theirs)


def test_several_columns_are_near_their_shares_together():
    for seed in range(5):
        labels, groups, sites = sized(np.random.default_rng(seed), 80)
        fractions = {"train": 0.6, "val": 0.2, "test": 0.2}
        splits = assign_splits(labels, groups, fractions, seed=seed, columns=[labels, sites])
        alone = assign_splits(labels, groups, fractions, seed=seed)
        assert len(set(zip(groups, splits, strict=True))) == len(set(groups))
        both = [f"{a} {b}" for a, b in zip(labels, sites, strict=True)]
        for of in (labels, sites, both):
            assert shares_apart(of, splits, fractions) <= 4  # a patient has up to eight images
        assert shares_apart(sites, alone, fractions) > 4


@pytest.fixture
def leaking():
    """Two images a patient, of which one goes to the test; a copy, and a near copy, of others' images."""
    images = [image(n, f"p{n // 2}", n % 3, split="test" if n % 4 == 1 else "train") for n in range(40)]
    images += [image(40, "q0", 0, content=41, split="train"), image(41, "q1", 0, content=41, split="test")]
    images += [image(42, "q2", 0, split="train"), image(43, "q3", 0, split="test")]
    return images, [(42, 43)]


def test_a_given_split_that_leaks_is_counted_and_marked_where_that_is_allowed(leaking):
    images, pairs = leaking
    with pytest.raises(UserError, match="the given splits leak"):
        dealt(images, pairs)
    config = configs.load("configs/prep/prep.py")
    config.split.allow_leaky, config.duplicates = True, "keep"
    found = deal(images, audited(images, pairs), read_settings(config))
    assert found.splits == [i.record.split for i in images]
    counts = {"tested": 12, "leaking": 12, "patient": 10, "pixels": 1, "near_copy": 1}
    assert found.mark == {
        "reason": "the given split divides patients or copies (split.allow_leaky)",
        "counts": counts,
    }
    assert (
        "of 12 images that are tested 12 leak (10 by patient, 1 with identical pixels, 1 as near copies)"
        in (found.warnings[-1])
    )
    # Near copies that nobody looked for are not said to be absent.
    blind = deal(images, dataclasses.replace(audited(images), searched=False), read_settings(config))
    assert "near_copy" not in blind.mark["counts"] and "were not looked for" in leaky.told(blind.mark)


def test_an_honest_given_split_is_not_marked_because_a_leak_was_allowed():
    images = [
        image(n, f"p{n // 2}", n // 2 % 3, split=("train", "val", "test")[n // 2 % 3]) for n in range(30)
    ]
    found = dealt(images, allow_leaky=True)
    assert found.mark is None and found.splits == [i.record.split for i in images]
    # What has none goes with its group all the same.
    some = [*images[:-1], image(29, "p14", 2)]
    assert dealt(some, allow_leaky=True).splits[-2:] == ["test"] * 2


def test_a_given_split_that_divides_a_site_is_marked_where_sites_are_to_be_whole():
    images = [image(n, f"p{n}", n % 3, split=("train", "test")[n % 2], site=f"s{n % 3}") for n in range(30)]
    with pytest.raises(UserError, match="the given splits leak"):
        dealt(images, by="site", val=0.0, train=0.5, test=0.5)
    found = dealt(images, by="site", val=0.0, train=0.5, test=0.5, allow_leaky=True)
    assert "or a site," in found.mark["reason"] and found.mark["counts"]["leaking"] == 15
    assert dealt(images, val=0.0, train=0.5, test=0.5, allow_leaky=True).mark is None


def test_image_by_image_is_marked_whatever_is_found():
    images = [image(n, f"p{n // 4}", n // 4 % 3) for n in range(80)]
    found = dealt(images, by="image", allow_leaky=True)
    assert found.mark["counts"]["tested"] == Counter(found.splits)["test"] > 10
    assert found.mark["counts"]["leaking"] >= 10 and "split.by=image" in found.mark["reason"]
    assert len(set(found.groups.values())) == 20  # the manifest still says who belongs together
    alone = [image(n, f"p{n}", n % 3) for n in range(30)]
    assert dealt(alone, by="image", allow_leaky=True).mark["counts"]["leaking"] == 0
    crossed = dealt(images, by="image", allow_leaky=True, folds=4, repeats=2)
    assert crossed.mark["counts"]["tested"] == 80 and crossed.mark["counts"]["patient"] > 60
