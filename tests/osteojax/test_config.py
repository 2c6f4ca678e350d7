import pytest

from osteojax import config
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
    assert config.differences(again, loaded) == []


def test_differences_name_the_keys(file):
    changed = config.load(file, ["--config.data.batch_size=4"])
    assert config.differences(config.load(file), changed) == ["data.batch_size: 8 -> 4"]
