import pytest

from osteojax.errors import UserError
from osteojax.train.parameter_groups import Group, assign, from_config, phases, preset, trainable_at

STAGES = ["stem", "stage1", "stage2", "head"]
PATHS = [
    "stem/conv/kernel",
    "stem/bn/scale",
    "stage1/0/bn1/bias",
    "stage2/0/conv1/kernel",
    "head/kernel",
    "head/bias",
]


def learning(groups, step=0):
    return trainable_at(groups, assign(groups, PATHS), step)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("head", {"head/kernel", "head/bias"}),
        ("stage2", {"head/kernel", "head/bias", "stage2/0/conv1/kernel"}),
        ("stage1", {"head/kernel", "head/bias", "stage1/0/bn1/bias"}),
        ("stage1+", {"head/kernel", "head/bias", "stage1/0/bn1/bias", "stage2/0/conv1/kernel"}),
        ("bn_affine", {"head/kernel", "head/bias", "stem/bn/scale", "stage1/0/bn1/bias"}),
        ("all", set(PATHS)),
    ],
)
def test_preset_trains_exactly_what_it_names(name, expected):
    assert learning(preset(name, STAGES)) == expected


def test_unknown_preset_lists_those_of_the_model():
    with pytest.raises(UserError, match=r"stage9.*stage2\+"):
        preset("stage9", STAGES)


def test_every_parameter_is_claimed_by_the_first_pattern_that_matches():
    groups = (Group("bn", ".*/bn.*"), Group("rest", ".*", frozen=True))
    assert assign(groups, PATHS)["stem/bn/scale"] == "bn"
    assert assign(groups, PATHS)["head/bias"] == "rest"


def test_an_unclaimed_parameter_is_an_error_that_names_it():
    with pytest.raises(UserError, match="stem/conv/kernel"):
        assign((Group("head", "head/.*"),), PATHS)


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(UserError, match=r"layer4.*claims no parameter"):
        assign((Group("typo", "layer4/.*"), Group("rest", ".*")), PATHS)


def test_a_pattern_hidden_behind_one_that_matches_everything_is_an_error():
    with pytest.raises(UserError, match=r"'head'.*claims no parameter"):
        assign((Group("everything", ".*", frozen=True), Group("head", "head/.*")), PATHS)


def test_freezing_everything_is_an_error():
    with pytest.raises(UserError, match="nothing to train"):
        assign((Group("everything", ".*", frozen=True),), PATHS)


def test_gradual_unfreezing_changes_the_learning_set_at_its_steps():
    groups = (
        Group("head", "head/.*"),
        Group("stage2", "stage2/.*", unfreeze_step=5),
        Group("rest", ".*", frozen=True),
    )
    assert phases(groups) == [0, 5]
    assert "stage2/0/conv1/kernel" not in learning(groups, 4)
    assert "stage2/0/conv1/kernel" in learning(groups, 5)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"name": "a", "pattern": "("}, "not a regular expression"),
        ({"name": "a", "pattern": ".*", "learning_rate": 1}, "may have"),
        ({"pattern": ".*"}, "needs name"),
    ],
)
def test_malformed_groups_are_errors(entry, message):
    with pytest.raises(UserError, match=message):
        from_config([entry])


def test_two_groups_of_one_name_are_an_error():
    with pytest.raises(UserError, match="same name"):
        from_config([{"name": "a", "pattern": "x"}, {"name": "a", "pattern": "y"}])
