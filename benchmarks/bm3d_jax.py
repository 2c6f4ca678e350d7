"""What BM3D in JAX costs: against numba on this CPU, and as compiled for hardware that is not here.

    python benchmarks/bm3d_jax.py [--sizes 224 512] [--topology v5e:2x4]

The compiler's own figures count the body of every loop once, and nearly all of this program is loops; the operations
are therefore also counted in the program's source, times the loops' lengths. The TPU part needs libtpu
(pip install libtpu) and no TPU.
"""

import argparse
import importlib.util
import math
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from data_prep.denoise.bm3d import FAST, NP, Profile, bm3d
from data_prep.denoise.bm3d.jax_backend import denoise_batch, denoise_padded_batch
from data_prep.phantom import PhantomConfig, generate_image

SIGMA = 25.0


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", type=int, default=[224, 512])
    parser.add_argument("--topology", default="v5e:2x4")
    arguments = parser.parse_args()
    _print_against_numba(arguments.sizes)
    _print_compiled(arguments.topology)


def _print_against_numba(sizes: list[int]) -> None:
    print(
        f"JAX on {jax.devices()[0].device_kind} against numba, sigma {SIGMA:g}; CPU-seconds, best of three.\n"
    )
    print("Differences: the worst pixel over the range, for continuous noise and for 8-bit pixels.\n")
    print("| size | profile | numba | JAX | JAX, batch of 4, an image | difference | 8 bits |")
    print("|---|---|---|---|---|---|---|")
    for size in sizes:
        clean = 255 * generate_image("healthy", config=PhantomConfig(image_size=(size, size))).clean
        image = clean + SIGMA * np.random.default_rng(0).normal(size=clean.shape)
        normalised = ((image - 128) / SIGMA).astype(np.float32)
        for profile in (NP, FAST):
            ways = {
                "numba": partial(bm3d, image, SIGMA, profile=profile),
                "jax": partial(bm3d, image, SIGMA, profile=profile, backend="jax"),
                "batch": partial(denoise_batch, [normalised] * 4, profile),
            }
            results = {name: way() for name, way in ways.items()}  # compiles
            seconds = dict.fromkeys(ways, math.inf)
            for _ in range(3):  # alternately, so that whatever else the machine does hits all alike
                for name, way in ways.items():
                    seconds[name] = min(seconds[name], _cpu_seconds(way))
            difference = np.abs(results["jax"] - results["numba"]).max() / np.ptp(image)
            eight_bit = np.clip(np.round(image), 0, 255)
            backends = (bm3d(eight_bit, SIGMA, profile=profile, backend=b) for b in ("numba", "jax"))
            ties = np.abs(np.subtract(*backends)).max() / np.ptp(eight_bit)
            print(
                f"| {size} | {profile.name} | {seconds['numba']:.2f} | {seconds['jax']:.2f} "
                f"| {seconds['batch'] / 4:.2f} | {difference:.1e} | {ties:.1e} |"
            )


def _cpu_seconds(way: partial) -> float:
    start = time.process_time()
    way()
    return time.process_time() - start


def _print_compiled(topology: str) -> None:
    print("\nCompiled for one device, one image of 224x224 a device.\n")
    print(
        "| device | profile | GFLOP | of it matrix products | compiler: GFLOP, GB, loops once | MB | compiled in |"
    )
    print("|---|---|---|---|---|---|---|")
    targets = {jax.devices()[0].device_kind: jax.devices()[:1]}
    if importlib.util.find_spec("libtpu"):
        from jax.experimental import topologies

        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server to ask
        devices = topologies.get_topology_desc(topology, "tpu").devices
        targets[f"{devices[0].device_kind} x {len(devices)}"] = devices
    for name, devices in targets.items():
        for profile in (NP, FAST):
            print(f"| {name} | {profile.name} | {_cost(list(devices), profile)} |")
    if not importlib.util.find_spec("libtpu"):
        print("\nlibtpu is not installed: nothing compiled for a TPU.")


def _cost(devices: list, profile: Profile) -> str:
    sharding = jax.NamedSharding(jax.sharding.Mesh(devices, "data"), jax.P("data"))
    n = len(devices)
    batch = jax.ShapeDtypeStruct((n, 224, 224), jnp.float32, sharding=sharding)
    sizes = jax.ShapeDtypeStruct((n, 2), jnp.int32, sharding=sharding)
    start = time.perf_counter()
    traced = denoise_padded_batch.trace(batch, sizes, profile=profile)
    compiled = traced.lower().compile()
    seconds = time.perf_counter() - start
    products, elementwise = (count / n / 1e9 for count in _operations(traced.jaxpr.jaxpr))
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return (
        f"{products + elementwise:.2f} | {products:.2f} "
        f"| {cost['flops'] / 1e9:.2f}, {cost['bytes accessed'] / 1e9:.2f} "
        f"| {memory.temp_size_in_bytes / 1e6:.0f} | {seconds:.0f} s"
    )


_ARITHMETIC = {"add", "sub", "mul", "div", "integer_pow", "square", "max", "min", "neg", "abs", "reduce_sum"}


def _operations(program: Jaxpr) -> tuple[float, float]:
    """Floating-point operations in matrix products and elementwise, every loop times its length."""
    products = elementwise = 0.0
    for equation in program.eqns:
        size = math.prod(equation.outvars[0].aval.shape)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            products += 2 * size * math.prod(equation.invars[0].aval.shape[d] for d in contracted)
        elif equation.primitive.name in _ARITHMETIC:
            floats = jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
            elementwise += floats * max(size, math.prod(equation.invars[0].aval.shape))
        for inner in equation.params.values():
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                p, e = _operations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)
                times = equation.params.get("length", 1)
                products, elementwise = products + times * p, elementwise + times * e
    return products, elementwise


if __name__ == "__main__":
    main()
