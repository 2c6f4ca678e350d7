"""conv2d: every formulation against an independent sum in float64, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from osteojax.models.layers.conv2d import conv2d

# (input NHWC, kernel HWIO, strides, padding, feature_groups)
CASES = {
    "1x1": ((2, 7, 5, 6), (1, 1, 6, 4), (1, 1), ((0, 0), (0, 0)), 1),
    "1x1 strided": ((2, 7, 6, 6), (1, 1, 6, 4), (2, 2), ((0, 0), (0, 0)), 1),
    "3x3": ((2, 7, 5, 4), (3, 3, 4, 3), (1, 1), ((1, 1), (1, 1)), 1),
    "3x3 strided, even": ((2, 8, 6, 4), (3, 3, 4, 3), (2, 2), ((1, 1), (1, 1)), 1),
    "3x3 strided, odd": ((1, 7, 9, 4), (3, 3, 4, 3), (2, 2), ((1, 1), (1, 1)), 1),
    "3x3 unpadded": ((1, 6, 5, 4), (3, 3, 4, 3), (1, 1), ((0, 0), (0, 0)), 1),
    "TensorFlow's SAME at stride 2": ((1, 8, 8, 4), (3, 3, 4, 3), (2, 2), ((0, 1), (0, 1)), 1),
    "7x7 stem": ((1, 17, 14, 3), (7, 7, 3, 4), (2, 2), ((3, 3), (3, 3)), 1),
    "7x7 stem, grey": ((2, 16, 16, 1), (7, 7, 1, 4), (2, 2), ((3, 3), (3, 3)), 1),
    "uneven strides": ((1, 9, 8, 2), (3, 5, 2, 3), (1, 3), ((2, 0), (1, 2)), 1),
    "stride beyond the kernel": ((1, 11, 10, 2), (2, 2, 2, 3), (3, 4), ((0, 0), (1, 0)), 1),
    "depthwise 3x3": ((2, 7, 6, 5), (3, 3, 1, 5), (1, 1), ((1, 1), (1, 1)), 5),
    "depthwise 5x5 strided": ((2, 9, 8, 5), (5, 5, 1, 5), (2, 2), ((2, 2), (2, 2)), 5),
    "depthwise with a multiplier": ((1, 5, 6, 3), (3, 3, 1, 6), (1, 1), ((1, 1), (1, 1)), 3),
    "grouped": ((1, 6, 5, 6), (3, 3, 2, 9), (2, 1), ((1, 1), (1, 1)), 3),
    "one pixel": ((1, 1, 1, 2), (3, 3, 2, 2), (1, 1), ((1, 1), (1, 1)), 1),
    "a column": ((1, 9, 1, 2), (3, 1, 2, 2), (1, 1), ((1, 1), (0, 0)), 1),
}
# Each formulation where it differs: the 49 taps of the stem take long to compile as products.
RUNS = [
    (case, impl)
    for case, (_, kernel, strides, _, feature_groups) in CASES.items()
    for impl in ("auto", "native", "matmul", "winograd")
    if not (impl == "matmul" and kernel[0] == 7)
    and not (impl == "winograd" and (kernel[:2] != (3, 3) or strides != (1, 1) or feature_groups > 1))
]


def reference(x, kernel, strides, padding, feature_groups):
    """The definition, summed in float64: y[n, h, w, o] = sum of x[n, h s + i, w s + j, c] k[i, j, c, o]."""
    x = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    kh, kw, inputs, outputs = kernel.shape
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))[
        :, :: strides[0], :: strides[1]
    ]
    per_group = outputs // feature_groups
    return np.concatenate(
        [
            np.einsum(
                "nhwcij,ijco->nhwo",
                windows[:, :, :, g * inputs : (g + 1) * inputs],
                kernel[..., g * per_group : (g + 1) * per_group].astype(np.float64),
            )
            for g in range(feature_groups)
        ],
        axis=-1,
    )


def arrays(case, seed=0):
    shape, kernel_shape, strides, padding, feature_groups = CASES[case]
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape, dtype=np.float32)
    kernel = rng.standard_normal(kernel_shape, dtype=np.float32)
    return x, kernel, {"strides": strides, "padding": padding, "feature_groups": feature_groups}


# Sums of at most 147 products of unit variance: float32 rounding stays below 1e-5 of their scale.
@pytest.mark.parametrize(("case", "impl"), RUNS)
def test_equals_the_definition(case, impl):
    x, kernel, how = arrays(case)
    expected = reference(x, kernel, **how)
    y = jax.jit(lambda x, k: conv2d(x, k, **how, impl=impl))(x, kernel)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


# "auto" chooses among the others: its values are compared above, and where it takes Winograd below.
@pytest.mark.parametrize(
    ("case", "impl"),
    [pytest.param(*run, marks=pytest.mark.slow) if run[1] == "auto" else run for run in RUNS],
)
def test_gradients_equal_those_of_the_definition(case, impl):
    """The convolution is bilinear, so <dy, conv(u, k)> = <dx, u> for every u, and likewise for the kernel."""
    x, kernel, how = arrays(case)
    rng = np.random.default_rng(1)
    dy = rng.standard_normal(reference(x, kernel, **how).shape).astype(np.float32)
    gradients = jax.jit(lambda x, k, dy: jax.vjp(lambda x, k: conv2d(x, k, **how, impl=impl), x, k)[1](dy))
    dx, dk = (np.asarray(g, np.float64) for g in gradients(x, kernel, dy))
    assert dx.shape == x.shape and dk.shape == kernel.shape

    def expected(shape, of):
        """The gradient entry by entry: the definition applied to each unit array."""
        gradient = np.zeros(shape)
        for index in np.ndindex(*shape):
            unit = np.zeros(shape, np.float32)
            unit[index] = 1
            gradient[index] = np.sum(of(unit) * dy)
        return gradient

    expected_dk = expected(kernel.shape, lambda unit: reference(x, unit, **how))
    expected_dx = expected(x.shape, lambda unit: reference(unit, kernel, **how))
    np.testing.assert_allclose(dx, expected_dx, atol=1e-5 * np.abs(expected_dx).max(), rtol=0)
    np.testing.assert_allclose(dk, expected_dk, atol=2e-5 * np.abs(expected_dk).max(), rtol=0)


def test_auto_follows_the_platform_that_the_program_is_lowered_for():
    x, kernel, how = arrays("3x3")
    loss = jax.jit(jax.value_and_grad(lambda x, k: conv2d(x, k, **how).sum(), argnums=(0, 1)))
    text = {p: loss.trace(x, kernel).lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "tpu", "cuda")}
    assert "stablehlo.dot_general" in text["cpu"]
    for platform in ("tpu", "cuda"):
        assert text[platform].count("stablehlo.convolution") == 3
        assert "stablehlo.dot_general" not in text[platform]


@pytest.mark.parametrize("shape", [(2, 30, 33, 96), (8, 14, 13, 64), (4, 9, 10, 130)])
def test_auto_on_cpu_equals_native_where_it_takes_winograd(shape):
    """Channels and tiles enough for "auto" to choose Winograd in all three directions; its transforms cost a digit.

    The first two go one row of tiles after another; the last has too many channels for that.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, dtype=np.float32)
    kernel = rng.standard_normal((3, 3, shape[3], 100 if shape[3] < 128 else 128), dtype=np.float32)

    def run(impl):
        def loss(x, k):
            y = conv2d(x, k, padding=((1, 1), (1, 1)), impl=impl)
            return jnp.sum(y * jnp.cos(jnp.arange(y.size).reshape(y.shape))), y

        (_, y), (dx, dk) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)
        return y, dx, dk

    lowered = jax.jit(lambda x, k: conv2d(x, k, padding=((1, 1), (1, 1)))).lower(x, kernel).as_text()
    assert f"tensor<36x{shape[3]}x{kernel.shape[3]}xf32>" in lowered
    for ours, native in zip(run("auto"), run("native"), strict=True):
        np.testing.assert_allclose(ours, native, atol=5e-5 * np.abs(native).max(), rtol=0)


def test_bfloat16_stays_bfloat16():
    x, kernel, how = arrays("3x3 strided, even")
    x, kernel = jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16)
    y, vjp = jax.vjp(lambda x, k: conv2d(x, k, **how), x, kernel)
    assert {y.dtype, *(g.dtype for g in vjp(y))} == {jnp.dtype(jnp.bfloat16)}


def test_vmap_over_kernels():
    x, kernel, how = arrays("3x3")
    kernels = jnp.stack([kernel, 2 * kernel])
    y = jax.vmap(lambda k: conv2d(jnp.asarray(x), k, **how))(kernels)
    np.testing.assert_allclose(y[1], 2 * y[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"impl": "fft"}, "impl is 'fft'"),
        ({"feature_groups": 3}, "does not fit 4 channels"),
        ({"strides": (0, 1)}, "must be positive"),
        ({"padding": ((0, -1), (0, 0))}, "not negative"),
        ({"kernel": np.zeros((10, 3, 4, 3), np.float32)}, "larger than the padded image"),
        ({"x": np.zeros((7, 5, 4), np.float32)}, "must be NHWC"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    x, kernel, how = arrays("3x3")
    with pytest.raises(ValueError, match=message):
        conv2d(**({"x": x, "kernel": kernel, **how} | change))
