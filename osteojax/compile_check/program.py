"""The first train step of a config compiled, or only lowered, and what the compiler says of it."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh

from osteojax.data.columns import CLINICAL, T_SCORE
from osteojax.devices.hlo import Collective, collectives, float32_convolutions, hbm_bytes, large_transposes
from osteojax.errors import UserError
from osteojax.models.build import build_shapes
from osteojax.models.network import Network
from osteojax.train.experiment import Experiment, read_experiment
from osteojax.train.parameter_groups import trainable_at
from osteojax.train.step import Recipe, TrainState, compile_step, sharded_step

# Only the step's own program is compiled: a thousand steps shape no schedule's cost.
_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What a step is given.

    Attributes:
        image_size: height and width.
        classes: number of them.
        channels: of the images.
    """

    image_size: int = 224
    classes: int = 3
    channels: int = 1


PAPER = Shapes()


class OutOfMemory(UserError):
    """The compiler cannot lay the program out in the chip's memory; the message is its own."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What the program of one chip costs.

    Attributes:
        flops: floating-point operations, as the compiler counts.
        gradient_bytes: of the parameters that learn, in the compute dtype (a kernel's gradient is summed over the
            chips before it is cast to float32): what data parallelism must reduce.
        state_bytes: of parameters, statistics and optimizer: at least this much memory.
        compiled: what only a compiled program tells; None where it was only lowered.
    """

    flops: float
    gradient_bytes: int
    state_bytes: int
    compiled: "Compiled | None"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What a compiled program tells of one chip.

    Attributes:
        bytes_accessed: the compiler's count of all operands and results, wherever they live: what a chip keeps in its
            own vector memory, and the copies there and back, count like the rest.
        hbm_bytes: of those, to and from the chip's main memory (see the function of that name).
        memory_bytes: of the chip's memory: arguments, temporaries and outputs, donated arguments once.
        temporary_bytes: of those, temporaries.
        collectives: the program's communications.
        float32_convolutions: convolutions with a float32 operand, one line of the program each.
        large_transposes: transposes and layout-changing copies of at least a megabyte, likewise.
    """

    bytes_accessed: float
    hbm_bytes: int
    memory_bytes: int
    temporary_bytes: int
    collectives: tuple[Collective, ...]
    float32_convolutions: tuple[str, ...]
    large_transposes: tuple[str, ...]


def compile_program(
    config: ml_collections.ConfigDict, mesh: Mesh, shapes: Shapes = PAPER, *, slices: int = 1
) -> Program:
    """Compiles for the mesh's devices, which need not be there.

    Raises:
        OutOfMemory: it does not fit a chip.
        UserError: the batch is not divided by the devices.
    """
    recipe, state, batch, gradient_bytes = _arguments(config, mesh.size, shapes)
    try:
        compiled, _ = compile_step(recipe, 0, state, batch, mesh)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).partition("RESOURCE_EXHAUSTED: ")[2].partition("\n")[0]
        raise OutOfMemory(f"{batch['label'].shape[0]} images a step do not fit: {reason}") from None
    cost, memory, text = compiled.cost_analysis(), compiled.memory_analysis(), compiled.as_text()
    if cost is None or memory is None or text is None:
        raise UserError("this compiler tells nothing of its program; install the libtpu of constraints.txt")
    arguments = memory.argument_size_in_bytes
    held = arguments + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes
    return Program(
        flops=cost["flops"],
        gradient_bytes=gradient_bytes,
        state_bytes=_bytes_of(state),
        compiled=Compiled(
            bytes_accessed=cost["bytes accessed"],
            # Only a TPU's program says what lives on the chip.
            hbm_bytes=hbm_bytes(text),
            memory_bytes=held,
            temporary_bytes=memory.temp_size_in_bytes,
            collectives=collectives(text, slices),
            float32_convolutions=float32_convolutions(text),
            large_transposes=large_transposes(text),
        ),
    )


def lower_program(
    config: ml_collections.ConfigDict, mesh: Mesh, devices: int, shapes: Shapes = PAPER, *, platform: str
) -> Program:
    """Lowers one device's share of the batch for a platform whose compiler is not here.

    Its operations are those of the program before the compiler has worked on it; of memory and communication it tells
    nothing. A step that the platform cannot run at all fails here.

    Args:
        config: of the experiment; `data.batch_size` is global.
        mesh: of one device, of any platform.
        devices: that share the batch.
        shapes: of what the step is given.
        platform: as JAX names it: "cuda".
    """
    recipe, state, batch, gradient_bytes = _arguments(config, devices, shapes)
    share = {
        name: jax.ShapeDtypeStruct((x.shape[0] // devices, *x.shape[1:]), x.dtype)
        for name, x in batch.items()
    }
    traced = sharded_step(recipe, 0, state, mesh).trace(state, share)
    cost: Any = traced.lower(lowering_platforms=(platform,)).cost_analysis()
    return Program(cost["flops"], gradient_bytes, _bytes_of(state), None)


def _arguments(
    config: ml_collections.ConfigDict, devices: int, shapes: Shapes
) -> tuple[Recipe, TrainState, dict[str, jax.ShapeDtypeStruct], int]:
    """Recipe, state and global batch of a config, as shapes, and the bytes of its gradient."""
    experiment: Experiment = read_experiment(config)
    rows = experiment.data.batch_size
    if rows % devices:
        raise UserError(f"data.batch_size={rows} is not divided by the {devices} chips")
    model = experiment.model
    # As many numbers as if all columns held numbers: of categories there are more, which is nothing beside an image.
    inputs = 2 * len(model.covariates)
    network = Network(build_shapes(model, model.name, shapes.classes, devices=devices, inputs=inputs))
    params, batch_stats = network.init()
    recipe = Recipe.of(experiment, network, _STEPS, (1,) * shapes.classes)
    state = jax.eval_shape(recipe.init_state, params, batch_stats)
    batch = {
        "image": jax.ShapeDtypeStruct(
            (rows, shapes.image_size, shapes.image_size, shapes.channels), jnp.float32
        ),
        "label": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((rows,), jnp.float32),
    }
    if inputs:
        batch[CLINICAL] = jax.ShapeDtypeStruct((rows, inputs), jnp.float32)
    if model.t_score:
        batch[T_SCORE] = jax.ShapeDtypeStruct((rows,), jnp.float32)
    item = jnp.dtype(model.dtype).itemsize
    learning = trainable_at(recipe.groups, recipe.labels, 0)
    return recipe, state, batch, sum(item * math.prod(params[path].shape) for path in learning)


def _bytes_of(tree: Any) -> int:
    return sum(math.prod(x.shape) * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def ring_bound_bytes(gradient_bytes: int, chips: int) -> float:
    """The least that a ring must send to reduce the gradient (Patarasuk and Yuan 2009): 2 (n - 1) / n of it."""
    return 2 * (chips - 1) / chips * gradient_bytes
