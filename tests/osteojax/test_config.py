import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

import pytest
from ml_collections import ConfigDict

from osteojax import config
from osteojax.config import AtLeastOne, Bound, NotNegative, Positive, Share
from osteojax.errors import UserError

FILE = """
import ml_collections
def get_config():
    c = ml_collections.ConfigDict()
    c.seed = 0
    c.size = (1, 2)
    c.data = ml_collections.ConfigDict({"dir": "", "batch_size": 8})
    return c
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(FILE)
    return str(path)


def test_overrides_are_applied_with_their_type(file):
    loaded = config.load(file, ["--config.data.batch_size=4", "--config.data.dir=/x"])
    assert loaded.data.batch_size == 4 and loaded.data.dir == "/x"


@pytest.mark.parametrize("override", ["--config.data.batchsize=4", "--config.data.batch_size=four"])
def test_a_wrong_override_is_one_clear_error(file, override):
    with pytest.raises(UserError, match=r"batch"):
        config.load(file, [override])


def test_an_absent_file_is_a_clear_error():
    with pytest.raises(UserError, match="not found"):
        config.load("configs/no_such.py")


def test_shipped_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load("configs/train/paper_resnet50.py").model.name == "resnet50"


def test_json_round_trip_and_hash(file):
    loaded = config.load(file)
    again = config.from_json(config.to_json(loaded))
    assert config.to_json(again) == config.to_json(loaded)
    assert config.digest(again) == config.digest(loaded)
    assert config.differences(again, loaded) == {}


def test_differences_name_the_keys(file):
    changed = config.load(file, ["--config.data.batch_size=4"])
    assert config.differences(config.load(file), changed) == {"data.batch_size": "8 -> 4"}


@pytest.mark.parametrize(
    ("text", "before", "value"),
    [
        ("3", 1, 3),
        ("3", 1.0, 3.0),
        ("1e-3", 1.0, 1e-3),
        ("true", False, True),
        ("False", True, False),
        ("123", "", "123"),
        ("a=b", "", "a=b"),
        ("('a', 'b')", ("x",), ("a", "b")),
        ("['a']", ("x",), ("a",)),
        ("[1, 2]", [], [1, 2]),
        ("({'name': 'head', 'pattern': 'head/.*'},)", (), ({"name": "head", "pattern": "head/.*"},)),
        ("None", 1.0, None),
        ("2.5", None, 2.5),
        ("words", None, "words"),
    ],
)
def test_values_of_the_command_line(text, before, value):
    found = config.parse(text, before, "key")
    assert found == value and type(found) is type(value)


def test_a_dictionary_is_set_as_a_whole_or_by_key(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(FILE.replace("c.seed = 0", "c.aliases = {'normal': 'healthy'}"))
    whole = config.load(str(path), ["--config.aliases={'gesund': 'healthy', 'krank': 'osteoporosis'}"])
    assert whole.aliases.to_dict() == {"gesund": "healthy", "krank": "osteoporosis"}
    assert config.load(str(path), ["--config.aliases.normal=sound"]).aliases.normal == "sound"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.data.batchsize=4", r"no config key data\.batchsize; did you mean data\.batch_size\?"),
        ("--config.dta.dir=x", r"no config key dta; did you mean data\?"),
        ("--config.zzz=4", r"no config key zzz\. Keys: data, seed, size"),
        ("--config.seed=1.5", "seed=1.5 does not fit: a whole number, as in --config.seed=0"),
        ("--config.seed=one", "does not fit: a whole number"),
        ("--config.size=3", "does not fit: a tuple, as in"),
        ("--config.size=(1,", "does not fit: a tuple"),
        ("--config.data=3", "data is a section"),
        ("--config.seed", "overrides are --config.key=value"),
        ("--config.seed.deep=1", "no config key seed"),
    ],
)
def test_what_does_not_fit_is_one_sentence(file, override, message):
    with pytest.raises(UserError, match=message):
        config.load(file, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n", r"bad\.py, line 1: the config does not run: SyntaxError"),
        ("x = 1\n", "has no function get_config"),
        ("import nowhere_to_be_found\n", r"bad\.py, line 1: .*ModuleNotFoundError"),
        ("def get_config():\n    return 1 / 0\n", r"bad\.py, line 2: .*ZeroDivisionError"),
        ("def get_config():\n    return {}\n", "returns a dict, not a ConfigDict"),
        ("def get_config(x):\n    return x\n", "TypeError"),
        ("\0\1\2", "does not run"),
    ],
)
def test_config_files_that_do_not_run(tmp_path, text, message):
    (tmp_path / "bad.py").write_text(text)
    with pytest.raises(UserError, match=message):
        config.load(str(tmp_path / "bad.py"))


@pytest.mark.parametrize("name", [".", "labels.csv"])
def test_what_is_no_config_file(tmp_path, name):
    (tmp_path / "labels.csv").write_text("file,label\n")
    with pytest.raises(UserError, match=r"get_config\(\) function"):
        config.load(str(tmp_path / name))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_a_damaged_stored_config(text):
    with pytest.raises(UserError, match="stored config is damaged"):
        config.from_json(text)


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Positive]
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    count: Annotated[int, AtLeastOne] = 1
    share: Annotated[float, Share] = 0.5
    flag: bool = False
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 1.0)
    maybe: Annotated[float, NotNegative] | None = None
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    inners: tuple[Inner, ...] = ()
    some: Annotated[tuple[Annotated[int, Positive], ...], Bound(low=1, high=2)] = (1,)
    beta: Annotated[float, Bound(low=0, high=1, open_high=True)] = 0.9


def test_sections_are_read_with_their_types():
    values = ConfigDict(
        {"inner": {"rate": 1}, "names": ["a"], "pair": (2, 3), "maybe": 0, "texts": {"a": "b"}}
    )
    found = config.read(Outer, values)
    assert found == Outer(Inner(1.0), names=("a",), pair=(2, 3.0), maybe=0.0, texts={"a": "b"})
    assert type(found.inner.rate) is float
    nested = config.read(Outer, {"inner": {"rate": 2.0}, "inners": ({"rate": 1.0, "kind": "b"},)})
    assert nested.inners == (Inner(1.0, "b"),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner": {"rate": -1.0}}, r"inner\.rate is -1\.0; it must be a number above 0"),
        ({"inner": {"rate": 0}}, "above 0"),
        ({"inner": {"rate": float("nan")}}, "inner.rate is nan"),
        ({"inner": {"rate": float("inf")}}, "inner.rate is inf"),
        ({"inner": {"rate": "1"}}, "a number above 0"),
        ({"inner": {"rate": True}}, "a number above 0"),
        ({"inner": {}}, "the config has no inner.rate"),
        ({"inner": {"rate": 1, "kind": "c"}}, "inner.kind is 'c'; it must be one of 'a', 'b'"),
        ({"inner": {"rate": 1, "knd": "a"}}, r"no config key inner\.knd; did you mean inner\.kind\?"),
        ({"inner": 3}, "a section with the keys rate, kind"),
        ({"count": 0}, "a whole number at least 1"),
        ({"count": 1.0}, "a whole number"),
        ({"count": True}, "a whole number"),
        ({"share": 1.01}, "at least 0 and at most 1"),
        ({"beta": 1.0}, "at least 0 and below 1"),
        ({"flag": "False"}, "flag is 'False'; it must be True or False"),
        ({"flag": 0}, "True or False"),
        ({"names": "a"}, "a tuple, each item text"),
        ({"names": ("a", 1)}, r"names\[1\] is 1; it must be text"),
        ({"pair": (1,)}, "a tuple of 2: a whole number, a number"),
        ({"maybe": -1}, "a number at least 0 or None"),
        ({"texts": {"a": 1}}, r"texts\.a is 1; it must be text"),
        ({"inners": ({"rate": -1},)}, r"inners\[0\]\.rate is -1"),
        ({"some": ()}, r"some is \(\); it must be a tuple of at least 1 and at most 2, each item a whole number above"),
        ({"some": (1, 2, 3)}, "a tuple of at least 1 and at most 2"),
        ({"some": (1, 0)}, r"some\[1\] is 0; it must be a whole number above 0"),
        ({"unknown": 1}, "no config key unknown"),
    ],
)  # fmt: skip
def test_what_a_section_does_not_allow_is_one_sentence(change, message):
    with pytest.raises(UserError, match=message):
        config.read(Outer, {"inner": {"rate": 1.0}, **change})
