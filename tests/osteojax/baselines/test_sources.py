"""Features of images: columns as numbers or categories, texture against known surfaces, a network's own features."""

import jax
import numpy as np
import pytest
import small
from skimage.feature import graycomatrix

from data_prep.shards import Example
from osteojax.baselines.sources.covariates import Covariates, covariates
from osteojax.baselines.sources.embedding import Embedding, embedding
from osteojax.baselines.sources.texture import (
    Texture,
    feature_names,
    fractal_dimension,
    of_part,
    texture,
)
from osteojax.data.dataset import PreparedDataset
from osteojax.errors import UserError
from osteojax.models.build import build
from osteojax.models.network import Network
from osteojax.train.experiment import read_experiment

ROWS = [
    {"age": "61", "sex": "F", "bmi": "22.5"},
    {"age": "", "sex": "M", "bmi": "NaN"},
    {"age": "75", "sex": "unknown", "bmi": "31"},
    {"age": "58", "sex": "F"},
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("covariates") / "data"
    examples = [
        Example(f"{k:016x}", f"{k}.png", small.CLASSES[k % 3], f"p{k}", f"p{k}", row)
        for k, row in enumerate(ROWS)
    ]
    return PreparedDataset.open(small.write_examples(out, {"train": examples[:3], "test": examples[3:]}))


def everything(dataset):
    return dataset.everything()


def test_all_examples_are_those_of_one_split_after_the_other(dataset):
    joined = everything(dataset)
    assert len(joined) == 4 and [e["file"] for e in joined] == [e["file"] for e in joined.identities()]
    assert [e["file"] for e in joined.__getitems__([3, 0, 2])] == [joined[k]["file"] for k in (3, 0, 2)]
    assert joined[3]["file"] == dataset.source("test")[0]["file"]


def test_columns_are_numbers_or_categories_and_may_be_missing(dataset):
    table = covariates(everything(dataset), Covariates())
    assert table.names == ("age", "bmi", "sex")
    assert table.categorical.tolist() == [False, False, True]
    nan = np.nan
    np.testing.assert_array_equal(table.values, [[61, 22.5, 0], [nan, nan, 1], [75, 31, nan], [58, nan, 0]])
    assert covariates(everything(dataset), Covariates(columns=("sex",))).values.shape == (4, 1)


def test_a_column_that_is_not_there_is_told(dataset, prepared):
    with pytest.raises(UserError, match=r"no column weight; it has age, bmi, sex"):
        covariates(everything(dataset), Covariates(columns=("age", "weight")))
    with pytest.raises(UserError, match=r"no column beside the images; it has none"):
        covariates(everything(PreparedDataset.open(prepared)), Covariates())


def brownian(hurst, size=224, seed=0):
    """A fractional Brownian surface by its spectrum, f^-(2 H + 2)."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    frequency[0, 0] = 1
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(size, size)))
    surface = np.fft.ifft2(noise * frequency ** -(hurst + 1)).real
    return (surface - surface.min()) / np.ptp(surface)


@pytest.mark.parametrize("hurst", [0.2, 0.5, 0.8])
def test_the_fractal_dimension_of_a_brownian_surface_is_known(hurst):
    found = [fractal_dimension(brownian(hurst, seed=seed)) for seed in range(5)]
    # The spectrum of one surface is a chi-square draw around its law: 0.05 is three standard errors of five.
    assert np.mean(found) == pytest.approx(3 - hurst, abs=0.08)
    assert np.isnan(fractal_dimension(np.full((64, 64), 0.5)))
    assert np.isnan(fractal_dimension(brownian(0.5, size=8)))


def test_texture_is_named_and_in_order():
    image = np.zeros((32, 32))
    image[:, 1::2] = 1  # stripes one pixel wide
    values = dict(zip(feature_names(), of_part(image), strict=True))
    matrix = graycomatrix((image * 31).astype(np.uint8), [1], [0], levels=32, symmetric=True, normed=True)
    assert matrix[0, 31, 0, 0] == matrix[31, 0, 0, 0] == 0.5
    # Across the stripes and on both diagonals neighbours differ by 31, along them by 0. Two pixels on, both ways,
    # they are equal; scikit-image rounds a diagonal of two to one pixel down and one aside.
    assert values["contrast at 1"] == pytest.approx(31**2 * 3 / 4)
    assert values["contrast at 2"] == pytest.approx(31**2 / 2)
    assert values["correlation at 1"] == pytest.approx((3 * -1 + 1) / 4)
    for points in (8, 16):
        assert sum(values[f"pattern {k} of {points}"] for k in range(points + 2)) == pytest.approx(1)


def test_texture_of_parts(dataset):
    table = texture(everything(dataset), Texture(grid=2))
    assert table.values.shape == (4, 4 * len(feature_names())) and not table.categorical.any()
    image = everything(dataset)[1]["image"][..., 0]
    np.testing.assert_array_equal(table.values[1, -len(feature_names()) :], of_part(image[16:, 16:]))


@pytest.fixture
def config_file(tmp_path, prepared):
    return small.write_config(tmp_path / "config.py", small.quick_config(prepared))


def test_the_embedding_is_what_the_head_sees(prepared, config_file):
    source = PreparedDataset.open(prepared).source("train")
    table = embedding(source, Embedding(config=str(config_file), init="random"))
    experiment = read_experiment(small.quick_config(prepared))
    network = Network(build(experiment.model, "tiny", 3, seed=experiment.seed))
    params, stats = network.init()
    images = np.stack([example["image"] for example in source])
    logits = jax.jit(network.eval_function())(params, stats, images)
    np.testing.assert_allclose(
        table.values @ np.asarray(params["head/fc/kernel"]) + params["head/fc/bias"], logits, atol=1e-5
    )
    assert table.origin == {"architecture": "tiny", "init": "random"}


def test_a_run_of_ours_is_no_embedding(prepared, config_file, tmp_path):
    with pytest.raises(UserError, match=r"is a run, which may have learned from what is tested here"):
        embedding(
            PreparedDataset.open(prepared).source("train"),
            Embedding(config=str(config_file), weights=str(tmp_path)),
        )
