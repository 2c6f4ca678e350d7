import pytest

from osteojax.errors import UserError
from osteojax.train.experiment import read_experiment
from osteojax.train.parameter_groups import (
    ParameterGroup,
    assign,
    check_unfreezing,
    choose,
    phases,
    preset,
    trainable_at,
)

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
    groups = (ParameterGroup("bn", ".*/bn.*"), ParameterGroup("rest", ".*", frozen=True))
    assert assign(groups, PATHS)["stem/bn/scale"] == "bn"
    assert assign(groups, PATHS)["head/bias"] == "rest"


def test_an_unclaimed_parameter_is_an_error_that_names_it():
    with pytest.raises(UserError, match="stem/conv/kernel"):
        assign((ParameterGroup("head", "head/.*"),), PATHS)


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(UserError, match=r"layer4.*claims no parameter"):
        assign((ParameterGroup("typo", "layer4/.*"), ParameterGroup("rest", ".*")), PATHS)


def test_a_pattern_hidden_behind_one_that_matches_everything_is_an_error():
    with pytest.raises(UserError, match=r"'head'.*claims no parameter"):
        assign((ParameterGroup("everything", ".*", frozen=True), ParameterGroup("head", "head/.*")), PATHS)


def test_freezing_everything_is_an_error():
    with pytest.raises(UserError, match="nothing to train"):
        assign((ParameterGroup("everything", ".*", frozen=True),), PATHS)


def test_gradual_unfreezing_changes_the_learning_set_at_its_steps():
    groups = (
        ParameterGroup("head", "head/.*"),
        ParameterGroup("stage2", "stage2/.*", unfreeze_step=5),
        ParameterGroup("rest", ".*", frozen=True),
    )
    assert phases(groups) == [0, 5]
    assert "stage2/0/conv1/kernel" not in learning(groups, 4)
    assert "stage2/0/conv1/kernel" in learning(groups, 5)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"name": "a", "pattern": "("}, "not a regular expression"),
        ({"name": "a", "pattern": ".*", "learning_rate": 1}, r"groups\[0\].learning_rate"),
        ({"pattern": ".*"}, r"no groups\[0\].name"),
        (
            {"name": "a", "pattern": ".*", "frozen": "False"},
            r"groups\[0\].frozen is 'False'; it must be True or",
        ),
        ({"name": "a", "pattern": ".*", "lr_factor": -1.0}, r"groups\[0\].lr_factor is -1.0"),
        ({"name": "a", "pattern": ".*", "unfreeze_step": -1}, r"groups\[0\].unfreeze_step is -1"),
        ({"name": "a", "pattern": ".*", "weight_decay": -0.1}, r"groups\[0\].weight_decay is -0.1"),
    ],
)
def test_malformed_groups_are_errors(entry, message, quick):
    quick.groups = (entry,)
    with pytest.raises(UserError, match=message):
        choose(read_experiment(quick).groups, "all", STAGES)


def test_two_groups_of_one_name_are_an_error():
    with pytest.raises(UserError, match="same name"):
        choose((ParameterGroup("a", "x"), ParameterGroup("a", "y")), "all", STAGES)


def test_a_group_thawed_after_the_end_and_a_run_that_begins_frozen_are_errors():
    groups = (ParameterGroup("head", "head/.*"), ParameterGroup("rest", ".*", unfreeze_step=10))
    check_unfreezing(groups, 11)
    with pytest.raises(
        UserError, match=r"'rest': unfreeze_step=10 is behind the end of the run, which has 10"
    ):
        check_unfreezing(groups, 10)
    with pytest.raises(UserError, match="nothing learns before step 3"):
        assign(
            (ParameterGroup("head", "head/.*", unfreeze_step=3), ParameterGroup("rest", ".*", frozen=True)),
            PATHS,
        )
