"""The train step and the evaluation step: pure functions of the state and a global batch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import optax

from osteojax.models.network import Flat, Network
from osteojax.run.state import TrainState
from osteojax.train import augment
from osteojax.train.optimizer import carry_over, make_optimizer, norms_by_group
from osteojax.train.parameter_groups import Group, trainable_at


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What turns a model into a train step: everything but the data.

    Attributes:
        network: the model as pure functions.
        groups: parameter groups, in order.
        labels: path -> name of its group.
        schedule: learning rate by global step.
        config: the whole experiment config; read are `optimizer`, `loss`, `augment`, `seed`.
        class_weights: weight of each class in the loss.
    """

    network: Network
    groups: Sequence[Group]
    labels: Mapping[str, str]
    schedule: optax.Schedule
    config: ml_collections.ConfigDict
    class_weights: tuple[float, ...]

    def optimizer(self, step: int) -> optax.GradientTransformationExtraArgs:
        """The transformation in force at `step`."""
        return make_optimizer(self.config.optimizer, self.groups, self.labels, self.schedule, step)

    def init_state(self, params: Flat, batch_stats: Flat) -> TrainState:
        """The state before the first step. Run it under `jax.jit` or `jax.eval_shape`."""
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=self.optimizer(0).init(params),
            # A copy: the step donates its input state, and one buffer cannot be donated twice.
            ema=jax.tree.map(jnp.copy, params) if self.config.optimizer.ema_decay else None,
        )

    def enter_phase(self, state: TrainState, before: int, now: int) -> TrainState:
        """The state with optimizer state for the groups that learn from step `now` on."""
        fresh = self.optimizer(now).init(state.params)
        return dataclasses.replace(
            state, opt_state=carry_over(state.opt_state, fresh, self.groups, before, now)
        )


def cross_entropy(logits: jax.Array, label: jax.Array, smoothing: float) -> jax.Array:
    """Softmax cross-entropy (B,) in nats of logits (B, classes) against labels (B,), with label smoothing."""
    target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, target)


def make_train_step(
    recipe: Recipe, step: int
) -> Callable[[TrainState, dict], tuple[TrainState, dict[str, jax.Array]]]:
    """The step function in force at `step`, until the next change of the learning groups.

    Only the gradient of the learning parameters is taken; the others reach the output untouched, bit by bit, and so
    do their batch-norm statistics.
    """
    config = recipe.config
    trainable = trainable_at(recipe.groups, recipe.labels, step)
    learning = [group.name for group in recipe.groups if not group.frozen_at(step)]
    apply = recipe.network.train_function(trainable)
    optimizer = recipe.optimizer(step)
    class_weights = jnp.asarray(recipe.class_weights, jnp.float32)
    decay = config.optimizer.ema_decay

    def train_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        augment_key, model_key = jax.random.split(key)
        image = augment.apply(augment_key, batch["image"], config.augment)
        mask, label = batch["mask"], batch["label"]
        weight = mask * class_weights[label]
        frozen = {path: p for path, p in state.params.items() if path not in trainable}

        def loss_of(learned: Flat) -> tuple[jax.Array, tuple[jax.Array, Flat]]:
            logits, stats = apply(frozen | learned, state.batch_stats, image, mask, model_key)
            losses = cross_entropy(logits, label, config.loss.label_smoothing)
            return jnp.sum(losses * weight) / jnp.sum(weight), (logits, stats)

        learned = {path: p for path, p in state.params.items() if path in trainable}
        (loss, (logits, batch_stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(learned)

        # optax sees the whole tree, so that its masks and labels are the ones of the tables; the zeros cost nothing.
        whole = {
            path: gradient[path] if path in trainable else jnp.zeros_like(p)
            for path, p in state.params.items()
        }
        updates, opt_state = optimizer.update(whole, state.opt_state, state.params, step=state.step)
        # Frozen parameters are passed on, not added to: -0.0 + 0.0 would already change a bit.
        params = frozen | {path: p + updates[path] for path, p in learned.items()}
        ema = state.ema
        if ema is not None:
            ema = ema | {path: decay * ema[path] + (1 - decay) * params[path] for path in learned}

        correct = jnp.sum((jnp.argmax(logits, -1) == label) * mask)
        metrics = {"loss": loss, "accuracy": correct / jnp.sum(mask)}
        rate = recipe.schedule(state.step)
        factors = {group.name: group.lr_factor for group in recipe.groups}
        metrics |= {
            f"learning_rate/{name}": jnp.asarray(rate * factors[name], jnp.float32) for name in learning
        }
        metrics |= {
            f"gradient_norm/{k}": v for k, v in norms_by_group(gradient, recipe.labels, learning).items()
        }
        moved = {path: updates[path] for path in learned}
        metrics |= {f"update_norm/{k}": v for k, v in norms_by_group(moved, recipe.labels, learning).items()}
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema), metrics

    return train_step


def make_eval_step(network: Network) -> Callable[[Flat, Flat, jax.Array], jax.Array]:
    """`f(params, batch_stats, image) -> logits` (B, classes) float32; no dropout, running statistics."""
    return network.eval_function()
