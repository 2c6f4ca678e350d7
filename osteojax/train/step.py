"""The train step: a pure function of the state and a global batch."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

import osteojax.train.losses  # noqa: F401  fills the registry
from osteojax.data.columns import CLINICAL, T_SCORE
from osteojax.data.pixels import unpack
from osteojax.devices.mesh import batch_sharding, replicated, state_sharding
from osteojax.errors import UserError
from osteojax.models.network import FIRST, Flat, Network
from osteojax.run.state import TrainState
from osteojax.train import augment, parameter_groups, siamese
from osteojax.train.class_weights import class_weights
from osteojax.train.experiment import Experiment
from osteojax.train.losses.registry import LOSSES
from osteojax.train.mix import mix
from osteojax.train.optimizer import (
    carry_over,
    make_optimizer,
    make_schedule,
    norms_by_group,
    note_validation,
    plateau_settings,
    scale_of,
)
from osteojax.train.parameter_groups import ParameterGroup, trainable_at
from osteojax.train.t_score import known_of, negative_log_likelihood

# Images, mask, columns and T-scores or None, and, as often as there are, labels with their weights: (B, ...) each.
Rows = tuple[jax.Array, jax.Array, jax.Array | None, jax.Array | None, list[tuple[jax.Array, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What turns a model into a train step: everything but the data.

    Attributes:
        network: the model as pure functions.
        groups: parameter groups, in order.
        labels: path -> name of its group.
        schedule: learning rate by global step.
        loss: class logits (B, classes), label (B,) -> (B,).
        augmentations: those that are on.
        experiment: the rest; read are `optimizer` and `seed`.
        class_weights: weight of each class in the loss.
    """

    network: Network
    groups: Sequence[ParameterGroup]
    labels: Mapping[str, str]
    schedule: optax.Schedule
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    augmentations: augment.Chain
    experiment: Experiment
    class_weights: tuple[float, ...]

    @classmethod
    def of(
        cls, experiment: Experiment, network: Network, total_steps: int, class_counts: Sequence[int]
    ) -> "Recipe":
        """The recipe of an experiment.

        Args:
            experiment: as read and checked.
            network: of `experiment.model`, or of its fallback.
            total_steps: of the whole run, for the schedule.
            class_counts: training examples of each class, for what the loss makes of them.

        Raises:
            UserError: a name or setting that there is not, groups that do not fit the network, or a schedule that does
                not fit the run.
        """
        groups = parameter_groups.choose(experiment.groups, experiment.preset, network.stages)
        parameter_groups.check_unfreezing(groups, total_steps)
        recipe = cls(
            network=network,
            groups=groups,
            labels=parameter_groups.assign(groups, network.init()[0]),
            schedule=make_schedule(experiment.optimizer, total_steps),
            loss=LOSSES.bind(
                experiment.loss.name,
                vars(experiment.loss) | {"class_counts": tuple(class_counts)},
                experiment.loss.settings,
                "loss.settings",
            ),
            augmentations=augment.chain(experiment.augment),
            experiment=experiment,
            class_weights=class_weights(experiment.loss, class_counts),
        )
        recipe.optimizer(0)  # an unknown one is told here
        if experiment.optimizer.accumulate > 1:
            recipe._check_accumulation()
        return recipe

    def optimizer(self, step: int) -> optax.GradientTransformationExtraArgs:
        """The transformation in force at `step`."""
        return make_optimizer(self.experiment.optimizer, self.groups, self.labels, self.schedule, step)

    def _check_accumulation(self) -> None:
        for step in parameter_groups.phases(self.groups):
            moving = self.network.moving_statistics(trainable_at(self.groups, self.labels, step))
            if moving:
                raise UserError(
                    f"optimizer.accumulate={self.experiment.optimizer.accumulate}: batch norm learns from step {step} "
                    f"on ({min(moving).rpartition('/')[0]}), and its statistics over a part of a batch are not "
                    "those of the batch; freeze all batch norms by groups (pattern '.*norm/.*') or preset=head, or "
                    "leave it at 1"
                )

    @property
    def without_labels(self) -> bool:
        """Whether it learns from two views of each image (`osteojax.train.siamese`), and its logits are embeddings."""
        return self.experiment.model.head == "simsiam"

    @property
    def reads_class(self) -> bool:
        """Whether the T-score alone is learned, and the class is read from it."""
        return self.experiment.model.head == "t_score"

    @property
    def averages(self) -> bool:
        """Whether a moving average of the parameters is kept."""
        return self.experiment.optimizer.ema_decay > 0

    def init_state(self, params: Flat, batch_stats: Flat) -> TrainState:
        """The state before the first step. Run it under `jax.jit` or `jax.eval_shape`."""
        # Copies: the step donates its input state, and one buffer cannot be donated twice.
        copy = lambda tree: jax.tree.map(jnp.copy, tree) if self.averages else None  # noqa: E731
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=self.optimizer(0).init(params),
            ema=copy(params),
            ema_batch_stats=copy(batch_stats),
        )

    def note_validation(self, state: TrainState, metrics: Mapping[str, float], mesh: Mesh) -> TrainState:
        """The state behind a validation: the schedule "plateau" listens, and nothing else."""
        settings = plateau_settings(self.experiment.optimizer)
        if settings is None:
            return state
        best = self.experiment.best
        value = np.float32(metrics[best.metric] if best.direction == "min" else -metrics[best.metric])
        noted = jax.jit(
            lambda opt_state, value: note_validation(settings, opt_state, value),
            out_shardings=state_sharding(mesh, state.opt_state),
        )
        return dataclasses.replace(state, opt_state=noted(state.opt_state, value))

    def enter_phase(self, state: TrainState, now: int) -> TrainState:
        """The state with optimizer state for the groups that learn from step `now` on."""
        fresh = self.optimizer(now).init(state.params)
        return dataclasses.replace(state, opt_state=carry_over(state.opt_state, fresh)[0])


def ema_decay(decay: float, step: jax.Array) -> jax.Array:
    """Decay of the moving average in the update that leads from `step` to `step` + 1, () float32.

    It warms up as min(decay, (1 + t) / (10 + t)), so that a short run's average is not still its starting point
    (`tf.train.ExponentialMovingAverage`).
    """
    return jnp.minimum(jnp.float32(decay), (1 + step) / (10 + step)).astype(jnp.float32)


def step_keys(seed: int, step: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Keys of the augmentation and of what the network draws, in the update that leads from `step` to `step` + 1."""
    augment_key, model_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    return augment_key, model_key


def make_train_step(
    recipe: Recipe, step: int, start: str = FIRST
) -> Callable[[TrainState, dict], tuple[TrainState, dict[str, jax.Array]]]:
    """The step function in force at `step`, until the next change of the learning groups.

    Its batches hold images, or what the part `start` of the network takes, augmented already.

    Only the gradient of the learning parameters is taken; the others reach the output untouched, bit by bit, and so
    do their batch-norm statistics.
    """
    trainable = trainable_at(recipe.groups, recipe.labels, step)
    moving = recipe.network.moving_statistics(trainable)
    learning = [group.name for group in recipe.groups if not group.frozen_at(step)]
    apply = recipe.network.train_function(trainable, start)
    optimizer = recipe.optimizer(step)
    class_weights = jnp.asarray(recipe.class_weights, jnp.float32)
    settings = recipe.experiment.optimizer

    def train_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        augment_key, model_key = step_keys(recipe.experiment.seed, state.step)
        image = unpack(batch["image"])
        if recipe.without_labels:
            image = siamese.two_views(augment_key, image, recipe.augmentations)
        elif start == FIRST:
            image = augment.apply(augment_key, image, recipe.augmentations)
        mask, label = batch["mask"], batch["label"]
        weight = mask * class_weights[label]
        targets = [(label, weight)]
        if recipe.experiment.mix.is_on:
            image, partner, share = mix(augment_key, image, mask, recipe.experiment.mix)
            targets = [(label, share * weight), (label[partner], (1 - share) * weight[partner])]
        total = sum(jnp.sum(weight) for _, weight in targets)
        clinical, score = batch.get(CLINICAL), batch.get(T_SCORE)
        known = jnp.zeros_like(mask) if score is None else known_of(score, mask)
        with_score = jnp.maximum(jnp.sum(known), 1.0)
        frozen = {path: p for path, p in state.params.items() if path not in trainable}

        def loss_of(learned: Flat, rows: Rows, key: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Flat]]:
            image, mask, clinical, score, targets = rows
            if recipe.without_labels:
                return siamese.loss_of(apply, frozen | learned, state.batch_stats, image, mask, key)
            output, stats = apply(frozen | learned, state.batch_stats, image, mask, key, clinical)
            loss = jnp.zeros(())
            if not recipe.reads_class:
                logits = recipe.network.class_logits(output)
                losses = [jnp.sum(recipe.loss(logits, label) * weight) for label, weight in targets]
                loss = jnp.asarray(sum(losses) / total)
            if score is not None:
                unlikely = negative_log_likelihood(output, score) * known_of(score, mask)
                loss += recipe.experiment.loss.t_score_weight * jnp.sum(unlikely) / with_score
            return loss, (output, stats)

        def gradient_at(learned: Flat) -> tuple[jax.Array, jax.Array, Flat, Flat]:
            return accumulated(
                jax.value_and_grad(loss_of, has_aux=True), learned,
                (image, mask, clinical, score, targets), model_key, settings.accumulate,
            )  # fmt: skip

        learned = {path: p for path, p in state.params.items() if path in trainable}
        loss, output, batch_stats, gradient = gradient_at(learned)
        if settings.sam_rho > 0:
            *_, gradient = gradient_at(climbed(learned, gradient, settings.sam_rho))

        # optax sees the whole tree, so that its masks and labels are the ones of the tables; the zeros cost nothing.
        whole = {
            path: gradient[path] if path in trainable else jnp.zeros_like(p)
            for path, p in state.params.items()
        }
        updates, opt_state = optimizer.update(whole, state.opt_state, state.params, step=state.step)
        # Frozen parameters are passed on, not added to: -0.0 + 0.0 would already change a bit.
        params = frozen | {path: p + updates[path] for path, p in learned.items()}
        ema, ema_batch_stats = state.ema, state.ema_batch_stats
        if ema is not None and ema_batch_stats is not None:
            decay = ema_decay(settings.ema_decay, state.step)
            ema = ema | {path: decay * ema[path] + (1 - decay) * params[path] for path in learned}
            # The averaged network's activations have other moments than the live one's.
            ema_batch_stats = ema_batch_stats | {
                path: decay * ema_batch_stats[path] + (1 - decay) * batch_stats[path] for path in moving
            }

        metrics = {"loss": loss}
        if recipe.without_labels:
            metrics |= siamese.embedding_metrics(output, mask)
        else:
            logits = recipe.network.class_logits(output)
            correct = jnp.sum((jnp.argmax(logits, -1) == label) * mask)
            metrics["accuracy"] = correct / jnp.sum(mask)
        if score is not None:
            error = jnp.abs(jnp.where(jnp.isfinite(score), score, 0.0) - recipe.network.t_scores(output))
            metrics["t_score_mae"] = jnp.sum(error * known) / with_score
        rate = recipe.schedule(state.step) * scale_of(state.opt_state)
        factors = {group.name: group.lr_factor for group in recipe.groups}
        metrics |= {
            f"learning_rate/{name}": jnp.asarray(rate * factors[name], jnp.float32) for name in learning
        }
        metrics |= {
            f"gradient_norm/{k}": v for k, v in norms_by_group(gradient, recipe.labels, learning).items()
        }
        moved = {path: updates[path] for path in learned}
        metrics |= {f"update_norm/{k}": v for k, v in norms_by_group(moved, recipe.labels, learning).items()}
        state = TrainState(state.step + 1, params, batch_stats, opt_state, ema, ema_batch_stats)
        return state, metrics

    return train_step


def accumulated(
    gradient_of: Callable[..., Any], learned: Flat, rows: Rows, key: jax.Array, parts: int
) -> tuple[jax.Array, jax.Array, Flat, Flat]:
    """Loss, output (B, ...), running statistics and gradient of a batch, in so many parts one after the other.

    Each part's loss is over the weight of the whole batch, so that the sum is the loss of the whole.

    Raises:
        UserError: the rows do not divide into the parts.
    """
    if parts == 1:
        (loss, (output, stats)), gradient = gradient_of(learned, rows, key)
        return loss, output, stats, gradient
    count = len(rows[1])
    if count % parts:
        raise UserError(f"optimizer.accumulate={parts} does not divide the {count} rows of a batch")
    # Every parts-th row: of rows that lie on several devices each part then has some of every device.
    split = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(count // parts, parts, *x.shape[1:]), 1, 0), rows)

    def add(sums: tuple[jax.Array, Flat], part: tuple[Rows, jax.Array]) -> tuple[Any, Any]:
        (loss, aux), gradient = gradient_of(learned, *part)
        return jax.tree.map(jnp.add, sums, (loss, gradient)), aux

    nothing = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, learned))
    (loss, gradient), (output, stats) = jax.lax.scan(add, nothing, (split, jax.random.split(key, parts)))
    # No statistics move (`Recipe.of`): those of every part are the same.
    stats = jax.tree.map(lambda x: x[0], stats)
    return loss, jnp.moveaxis(output, 0, 1).reshape(count, -1), stats, gradient


def climbed(learned: Flat, gradient: Flat, rho: float) -> Flat:
    """The parameters moved by `rho` up the gradient (Foret et al. 2021, eq. 2).

    Sharpness-aware minimisation descends by the gradient of there. Loss, logits and statistics stay those of the
    parameters themselves.
    """
    factor = rho / jnp.maximum(optax.tree.norm(gradient), 1e-12)
    return jax.tree.map(lambda p, g: p + factor * g, learned, gradient)


def all_finite(state: TrainState) -> jax.Array:
    """() bool: whether every number of the state is finite. Run it under `jax.jit`."""
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def sharded_step(
    recipe: Recipe,
    step: int,
    state: TrainState,
    mesh: jax.sharding.Mesh,
    start: str = FIRST,
    *,
    holding: bool = False,
    several: bool = False,
) -> Any:
    """`f(state, batch) -> (state, metrics)`: the jitted train step in force at `step`, laid out on the mesh.

    The state is donated. With `holding` there is a third argument, all inputs on every device, and the batch has the
    numbers of its rows in place of images. With `several` the batch is (steps, rows, ...) and all are taken.
    """
    layout = state_sharding(mesh, state)
    train_step = make_train_step(recipe, step, start)

    def one(state: TrainState, batch: dict[str, jax.Array], *held: jax.Array) -> Any:
        for inputs in held:
            batch = batch | {"image": inputs[batch["image"]]}
        return train_step(state, batch)

    def all_of(state: TrainState, batches: dict[str, jax.Array], *held: jax.Array) -> Any:
        return jax.lax.scan(lambda carried, batch: one(carried, batch, *held), state, batches)

    return jax.jit(
        all_of if several else one,
        donate_argnums=0,
        in_shardings=(layout, batch_sharding(mesh, steps=several), *[replicated(mesh)] * holding),
        out_shardings=(layout, replicated(mesh)),
    )


def compile_step(
    recipe: Recipe,
    step: int,
    state: TrainState,
    batch: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    start: str = FIRST,
    *held: jax.Array,
) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """The compiled train step in force at `step`, see `sharded_step`, and what its compilation says of it.

    State and batch may be arrays or `jax.ShapeDtypeStruct`s; a batch (steps, rows, ...) takes several steps.
    """
    began = time.perf_counter()
    jitted = sharded_step(
        recipe, step, state, mesh, start, holding=bool(held), several=batch["label"].ndim == 2
    )
    compiled = jitted.lower(state, batch, *held).compile()
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    facts = {
        "compile_seconds": time.perf_counter() - began,
        # As the compiler counts: a loop's body once, and on CPU the strips of a Winograd convolution are a loop.
        "step_flops": cost.get("flops", math.nan),
    }
    if memory is not None:  # not every backend tells
        facts["step_temporary_bytes"] = memory.temp_size_in_bytes
        facts["step_argument_bytes"] = memory.argument_size_in_bytes
    return compiled, facts
