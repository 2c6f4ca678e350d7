import pytest

from osteojax.errors import UserError
from osteojax.registry import Registry


def test_members_are_found_by_name_and_listed_in_order():
    kinds = Registry("kind")
    kinds.register("b")(1)
    assert kinds.register("a")(2) == 2
    assert (kinds.get("b"), kinds.get("a")) == (1, 2)
    assert list(kinds) == ["b", "a"] and "a" in kinds and len(kinds) == 2


def test_an_unknown_name_is_refused_with_those_that_there_are():
    kinds = Registry("kind")
    with pytest.raises(UserError, match=r"no kind 'x'; there are none"):
        kinds.get("x")
    kinds.register("a")(1)
    kinds.register("b")(1)
    with pytest.raises(UserError, match=r"no kind 'x'; there are a, b"):
        kinds.get("x")


def test_a_name_is_taken_once():
    kinds = Registry("kind")
    kinds.register("a")(1)
    with pytest.raises(ValueError, match="two kinds called 'a'"):
        kinds.register("a")(2)


def test_what_is_registered_temporarily_goes_even_when_the_test_fails():
    kinds = Registry("kind")
    kinds.register("a")(1)
    with pytest.raises(RuntimeError), kinds.temporary():
        kinds.register("b")(2)
        assert list(kinds) == ["a", "b"]
        raise RuntimeError
    assert list(kinds) == ["a"]


def test_members_cannot_be_changed_from_outside():
    with pytest.raises(TypeError):
        Registry("kind").members["a"] = 1
