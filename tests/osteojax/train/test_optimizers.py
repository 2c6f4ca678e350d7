"""Each optimizer against optax's own composition or its paper in numpy, and the promises of freezing for all."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from osteojax.train.experiment import OptimizerSection
from osteojax.train.optimizer import carry_over, make_optimizer, make_schedule
from osteojax.train.optimizers.registry import OPTIMIZERS
from osteojax.train.parameter_groups import ParameterGroup

RNG = np.random.default_rng(0)
PARAMS = {
    "head/fc/kernel": RNG.normal(size=(4, 3)).astype(np.float32),
    "stage4/conv/kernel": RNG.normal(size=(3, 3, 2, 5)).astype(np.float32),
    "stage4/conv/norm/scale": np.ones(5, np.float32),
}
DECAY = 0.1
RATE = 0.02
NOT_VECTORS = {path: p.ndim > 1 for path, p in PARAMS.items()}


def section(name, **changes):
    return OptimizerSection(
        **{
            "name": name,
            "learning_rate": RATE,
            "schedule": "cosine",
            "weight_decay": DECAY,
            "clip_norm": 0.0,
            **changes,
        }
    )


def ours(of, steps=8):
    return make_optimizer(
        of, (ParameterGroup("a", ".*"),), dict.fromkeys(PARAMS, "a"), make_schedule(of, steps), 0
    )


def walk(transformation, steps=8, **extra):
    """The parameters after some steps on fixed gradients of their own."""
    params, state = jax.tree.map(jnp.asarray, PARAMS), transformation.init(PARAMS)
    for step in range(steps):
        gradient = jax.tree.map(lambda p, step=step: jnp.sin(3 * p + step), params)
        updates, state = transformation.update(
            gradient, state, params, **{"step": step} if extra.get("ours") else {}
        )
        params = optax.apply_updates(params, updates)
    return params


COSINE = optax.cosine_decay_schedule(RATE, 8)
THEIRS = {
    "adam": optax.chain(
        optax.add_decayed_weights(DECAY, NOT_VECTORS), optax.adam(COSINE, 0.9, 0.999, eps=1e-8)
    ),
    "adamw": optax.adamw(COSINE, weight_decay=DECAY, mask=NOT_VECTORS),
    "sgd": optax.chain(
        optax.trace(0.9), optax.add_decayed_weights(DECAY, NOT_VECTORS), optax.scale_by_learning_rate(COSINE)
    ),
    "lion": optax.lion(COSINE, 0.9, 0.99, weight_decay=DECAY, mask=NOT_VECTORS),
    "lars": optax.lars(COSINE, DECAY, NOT_VECTORS, 0.001, 0.0, NOT_VECTORS, 0.9),
}


@pytest.mark.parametrize("name", THEIRS)
def test_an_optimizer_is_optaxs_over_a_falling_rate(name):
    found, expected = walk(ours(section(name)), ours=True), walk(THEIRS[name])
    for path in PARAMS:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-5, atol=1e-6, err_msg=path)


def test_lamb_is_its_algorithm_in_numpy():
    """You et al. 2020, algorithm 2, two steps; vectors without trust ratio and decay."""
    found = walk(ours(section("lamb", schedule="constant")), steps=2, ours=True)
    params = {path: p.astype(np.float64) for path, p in PARAMS.items()}
    m = {path: np.zeros_like(p) for path, p in params.items()}
    v = {path: np.zeros_like(p) for path, p in params.items()}
    for t in range(2):
        for path, p in params.items():
            g = np.sin(3 * p + t)
            m[path] = 0.9 * m[path] + 0.1 * g
            v[path] = 0.999 * v[path] + 0.001 * g**2
            r = m[path] / (1 - 0.9 ** (t + 1)) / (np.sqrt(v[path] / (1 - 0.999 ** (t + 1))) + 1e-8)
            if p.ndim > 1:
                r = r + DECAY * p
                r *= np.linalg.norm(p) / np.linalg.norm(r)
            params[path] = p - RATE * r
    for path in PARAMS:
        np.testing.assert_allclose(found[path], params[path], rtol=1e-4, atol=1e-5, err_msg=path)


PLACES = {
    "head/fc/kernel": np.ones((4, 3), np.float32),
    "stage4/blocks/0/attn/distances": np.ones((9, 2), np.float32),
    "stem/positions": np.ones((1, 5, 4), np.float32),
    "stem/class_token": np.ones((1, 1, 4), np.float32),
}


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"muon"}))
def test_what_is_known_of_places_does_not_decay(name):
    of = section(name, schedule="constant", weight_decay=0.5)
    optimizer = make_optimizer(
        of, (ParameterGroup("a", ".*"),), dict.fromkeys(PLACES, "a"), make_schedule(of, 8), 0
    )
    nothing = jax.tree.map(np.zeros_like, PLACES)
    updates, _ = optimizer.update(nothing, optimizer.init(PLACES), PLACES, step=0)
    assert {path for path, update in updates.items() if update.any()} == {"head/fc/kernel"}


def test_a_table_of_distances_is_no_matrix_to_muon_and_does_not_decay():
    of = section("muon", schedule="constant", weight_decay=0.5)
    optimizer = make_optimizer(
        of, (ParameterGroup("a", ".*"),), dict.fromkeys(PLACES, "a"), make_schedule(of, 8), 0
    )
    gradient = {path: RNG.normal(size=p.shape).astype(np.float32) for path, p in PLACES.items()}
    updates, _ = optimizer.update(gradient, optimizer.init(PLACES), PLACES, step=0)
    for path in set(PLACES) - {"head/fc/kernel"}:
        np.testing.assert_allclose(updates[path], -RATE * np.sign(gradient[path]), rtol=1e-4)


def test_muons_step_of_a_convolution_is_nearly_orthogonal_and_the_head_is_adams():
    of = section("muon", schedule="constant", weight_decay=0.0, settings={"iterations": 12})
    gradient = {path: RNG.normal(size=p.shape).astype(np.float32) for path, p in PARAMS.items()}
    optimizer = ours(of)
    updates, _ = optimizer.update(gradient, optimizer.init(PARAMS), PARAMS, step=0)
    matrix = np.asarray(updates["stage4/conv/kernel"]).reshape(18, 5)
    u, _, vt = np.linalg.svd(-gradient["stage4/conv/kernel"].reshape(18, 5), full_matrices=False)
    # Newton-Schulz with Jordan's coefficients leaves singular values between about 0.7 and 1.2.
    values = np.diag(u.T @ matrix @ vt.T) / (RATE * 0.2 * np.sqrt(18))
    assert (values > 0.6).all() and (values < 1.3).all()
    off = u.T @ matrix @ vt.T - np.diag(np.diag(u.T @ matrix @ vt.T))
    np.testing.assert_allclose(off, 0, atol=1e-3 * RATE)
    for path in ("head/fc/kernel", "stage4/conv/norm/scale"):
        np.testing.assert_allclose(updates[path], -RATE * np.sign(gradient[path]), rtol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_that_is_thawed_leaves_the_moments_of_the_others(name):
    of = section(name, schedule="constant")
    groups = (ParameterGroup("head", "head/.*"), ParameterGroup("rest", ".*", unfreeze_step=3))
    labels = {path: "head" if path.startswith("head") else "rest" for path in PARAMS}
    before, after = (make_optimizer(of, groups, labels, make_schedule(of, 9), step) for step in (0, 3))
    state = before.init(PARAMS)
    frozen = {p.shape for path, p in PARAMS.items() if labels[path] == "rest"}
    assert not any(jnp.shape(x) in frozen for x in jax.tree.leaves(state))
    updates, state = before.update(PARAMS, state, PARAMS, step=0)
    assert not any(updates[path].any() for path in PARAMS if labels[path] == "rest")
    carried, afresh = carry_over(state, after.init(PARAMS))
    assert afresh == {"rest"}
    kept = jax.tree.leaves(carried[1].inner_states["head"])
    for mine, old in zip(kept, jax.tree.leaves(state[1].inner_states["head"]), strict=True):
        np.testing.assert_array_equal(mine, old)
    assert after.update(PARAMS, carried, PARAMS, step=3)[0]["stage4/conv/kernel"].any()
