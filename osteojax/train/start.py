"""Where a run begins: from its config, or from the newest checkpoint that is whole."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from osteojax import config as configs
from osteojax import leaky
from osteojax.data.columns import COLUMNS, Columns, check_t_scores, width_of
from osteojax.data.dataset import Examples, PreparedDataset
from osteojax.devices.agreement import from_first, shared_errors
from osteojax.devices.mesh import replicated, state_sharding
from osteojax.errors import UserError
from osteojax.models.build import build_shapes
from osteojax.models.network import Flat, Network
from osteojax.run.best import BestSoFar
from osteojax.run.checkpoint import ARRAYS, Checkpoints, DamagedCheckpoint, shapes_on
from osteojax.run.learned import Rows, learned_from, read_learned
from osteojax.run.state import TrainState
from osteojax.run.workdir import CONFIG, stored_config
from osteojax.storage import EARLIER
from osteojax.train import augment, parameter_groups, transfer
from osteojax.train.class_weights import class_counts
from osteojax.train.experiment import Experiment, TransferSection, read_experiment
from osteojax.train.initialise import initialise
from osteojax.train.optimizer import carry_over, make_optimizer, same_structure
from osteojax.train.step import Recipe

log = logging.getLogger(__name__)

# They change no result, and may differ between the starts of a run. The mesh is one of them unless batch norm sees it.
_WITHOUT_EFFECT = (
    "data.dir", "data.threads", "data.hold", "train.cache_dir", "log_every", "checkpoint.keep",
    "checkpoint.every_steps", "eval.batch_size",
)  # fmt: skip
_MESH = ("mesh.data", "mesh.fsdp")
# What the first start settled: its parameters came from there.
_SETTLED = (
    "model.name", "model.fallback", "model.covariates", "init", "weights", "transfer.head", "transfer.allow_overlap",
)  # fmt: skip


@dataclasses.dataclass
class Start:
    """What a run goes on from.

    Attributes:
        recipe: of the network that the first start settled on.
        state: laid out on the mesh.
        step: updates done.
        pending: metrics of the steps since the last line of the log.
        best: the ranking so far.
        iterator: position in the data; None at the beginning.
        origin: where the parameters came from at step 0.
        learned: what this run and those before it learn from; None where that is not known, or was written already.
        columns: that the network takes beside the image, as the first start found them in the training split; or None.
    """

    recipe: Recipe
    state: TrainState
    step: int
    pending: list[dict[str, float]]
    best: BestSoFar
    iterator: Any
    origin: dict[str, Any]
    learned: Rows | None = None
    columns: Columns | None = None


def agree_on_start(config: ml_collections.ConfigDict, dataset: PreparedDataset) -> None:
    """Raises UserError where the processes were not all started with one config and dataset.

    Folders may differ: each host may have the data in its own place.
    """
    here = config.to_dict()
    mine = ml_collections.ConfigDict(_without_folders(here) | {"dataset": dataset.fingerprint})
    first = configs.from_json(from_first(configs.to_json(mine)))
    with shared_errors():
        changed = [f"{key}: {change}" for key, change in configs.differences(first, mine).items()]
        if changed:
            raise UserError(
                f"was not started like process 0 ({'; '.join(changed)}); start all processes with one command"
            )


def _without_folders(config: dict[str, Any]) -> dict[str, Any]:
    config["data"] = {key: value for key, value in config["data"].items() if key != "dir"}
    if config.get("pretrain"):
        config["pretrain"] = _without_folders(config["pretrain"])
    return config


def check_continues(
    workdir: Path, checkpoints: Checkpoints, experiment: Experiment, dataset: PreparedDataset, *, force: bool
) -> None:
    """Whether the run in the workdir, if there is one, is this one, or may go on as this one.

    The folder of the data may move between starts; its content, told by the fingerprint, may not change.

    Raises:
        UserError: the run was started with another config or other data, and not forced or not to be forced.
    """
    found = _stored(workdir, checkpoints)
    if found is None:
        return
    before, fingerprint = found
    now = _flat(experiment, dataset.fingerprint)
    ignored = {*_WITHOUT_EFFECT, *(_MESH if experiment.model.batch_norm == "global" else ())}
    changed = {
        key: change
        for key, change in configs.differences(_flat(before, fingerprint), now).items()
        if _of_its_stage(key) not in ignored
    }
    settled = [f"{key}: {change}" for key, change in changed.items() if key in _SETTLED or _is_earlier(key)]
    if settled and checkpoints.steps():
        raise UserError(
            f"{workdir} holds a run whose parameters came from another start ({'; '.join(settled)}); nothing can "
            "change that now, --force neither: use another --workdir"
        )
    if changed and not force:
        raise UserError(
            f"{workdir} holds a run started with another config "
            f"({'; '.join(f'{key}: {change}' for key, change in changed.items())}); "
            "use another --workdir, or --force to go on with the new values"
        )


def _is_earlier(key: str) -> bool:
    return key.partition(".")[0] == "pretrain"


def _of_its_stage(key: str) -> str:
    """The key of an earlier stage as it is called there."""
    while _is_earlier(key) and "." in key:
        key = key.partition(".")[2]
    return key


def _stored(workdir: Path, checkpoints: Checkpoints) -> tuple[Experiment, str] | None:
    """The experiment that the workdir was started with, and the fingerprint of its data."""
    text = stored_config(workdir)
    if text is not None:
        try:
            config = configs.from_json(text)
            return _read_stored(config, str(workdir / CONFIG)), str(config.get("dataset_fingerprint"))
        except UserError as error:
            log.warning("%s; the newest checkpoint tells what the run was started with", error)
    for step in reversed(checkpoints.steps()):
        try:
            record = checkpoints.record(step)
        except DamagedCheckpoint:
            continue
        config = configs.from_json(record["config"])
        return _read_stored(config, f"checkpoint {step}"), record["dataset_fingerprint"]
    return None


def _read_stored(config: ml_collections.ConfigDict, where: str) -> Experiment:
    try:
        return read_experiment(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _flat(experiment: Experiment, fingerprint: str) -> ml_collections.ConfigDict:
    values = dataclasses.asdict(experiment) | {"dataset_fingerprint": fingerprint}
    values["best"]["mode"] = experiment.best.direction
    values["augment"] = augment.switched_on(experiment.augment)  # a key that came later is no change
    return ml_collections.ConfigDict(values)


def start(
    experiment: Experiment,
    dataset: PreparedDataset,
    source: Examples,
    mesh: jax.sharding.Mesh,
    workdir: Path,
    checkpoints: Checkpoints,
    total_steps: int,
) -> Start:
    """The state to train on from, and what belongs to it.

    An order of explicit steps: init, load weights, optimizer init; or restore, which needs none of their values. The
    newest checkpoint that is whole is taken; a damaged one is moved aside with a warning. A run that resumes keeps
    the architecture that its first start settled on, and needs what it started from no more.

    Raises:
        UserError: names, groups or weights that do not fit, or a checkpoint that cannot be read just now.
    """
    classes = len(dataset.class_names)
    counts = class_counts(experiment.loss, dataset.class_names, source)

    def recipe_for(network: Network) -> Recipe:
        return Recipe.of(experiment, network, total_steps, counts)

    def restored(step: int) -> tuple[int, dict[str, Any], Columns | None, Recipe, TrainState]:
        record = checkpoints.record(step)
        architecture, columns = record["origin"]["architecture"], Columns.of_record(record)
        shapes = build_shapes(
            experiment.model, architecture, classes, devices=mesh.size, inputs=width_of(columns)
        )
        recipe = recipe_for(Network(shapes))
        return step, record, columns, recipe, restore_state(checkpoints, step, record, recipe.network, mesh)

    found = checkpoints.newest(restored)
    if found is not None:
        step, record, columns, recipe, state = found
        best = BestSoFar(**record["best"])
        ranked = best.ranked_by(
            experiment.best.metric,
            experiment.best.direction,
            experiment.best.patience,
            checkpoints.validated(),
        )
        if ranked is not best and step >= total_steps:
            raise UserError(
                f"the run is complete at step {step}: best.* changes nothing any more; raise epochs to go on, or "
                "choose a checkpoint with osteojax evaluate --step"
            )
        state = adopt(state, recipe, step, mesh)
        return Start(
            recipe,
            state,
            step,
            record["pending"],
            ranked,
            record["iterator"],
            record["origin"],
            None,
            columns,
        )

    given, learned = None, learned_from(dataset, experiment.tested, experiment.eval.split)
    # A stage is told by its name: the folder of both may move.
    place, told = (
        (workdir / EARLIER, EARLIER) if experiment.pretrain else (experiment.weights, experiment.weights)
    )
    if experiment.init != "random" and transfer.is_run(str(place)):
        before = transfer.open_source(str(place))
        given = transfer.weights_of(before, told, experiment, dataset)
        earlier = read_learned(before)
        learned = None if learned is None or earlier is None else learned + earlier
    elif experiment.transfer != TransferSection():
        raise UserError(
            f"transfer.* is about weights that are a run of ours, and weights={experiment.weights!r} are none; name "
            "the folder of a run, or leave transfer.* as it was"
        )
    names = experiment.model.covariates
    columns = Columns.fit(source.identities(), names, source.labels()) if names else None
    if experiment.model.t_score:
        check_t_scores(source.identities(), experiment.model.t_score)
    model, origin = initialise(experiment, classes, mesh.size, given, inputs=width_of(columns))
    recipe = recipe_for(Network(model))
    layout = state_sharding(mesh, jax.eval_shape(recipe.init_state, *recipe.network.init()))
    state = jax.jit(recipe.init_state, out_shardings=layout)(*recipe.network.init())
    best = BestSoFar(experiment.best.metric, experiment.best.direction, experiment.best.patience)
    return Start(recipe, state, 0, [], best, None, origin, learned, columns)


def checkpoint_record(
    config: ml_collections.ConfigDict,
    dataset: PreparedDataset,
    origin: dict[str, Any],
    *,
    iterator: Any,
    best: BestSoFar,
    pending: list[dict[str, float]],
    columns: Columns | None = None,
) -> dict[str, Any]:
    """The JSON part of a checkpoint, which `start` goes on from and `osteojax.run.open` opens.

    Args:
        config: of the run.
        dataset: that it learns from.
        origin: see `Start`.
        iterator: position in the data; None at its beginning.
        best: the ranking so far.
        pending: see `Start`.
        columns: likewise.
    """
    return {
        "config": configs.to_json(config),
        "config_hash": configs.digest(config),
        "class_names": list(dataset.class_names),
        "image_shape": list(dataset.image_shape),
        "preprocessing": dataset.preprocessing,
        "input": transfer.input_of(origin["architecture"]),
        "dataset_fingerprint": dataset.fingerprint,
        leaky.KEY: mark_of(dataset, origin),
        "origin": origin,
        "iterator": iterator,
        "best": best.as_record(),
        "pending": pending,
    } | ({} if columns is None else {COLUMNS: columns.to_record()})


def mark_of(dataset: PreparedDataset, origin: dict[str, Any]) -> leaky.Mark | None:
    """The mark of a run: of its dataset, or of what its weights learned from; `origin` as in `Start`."""
    return leaky.together([dataset.mark, leaky.from_weights(origin)])


def restore_state(
    checkpoints: Checkpoints, step: int, record: dict[str, Any], network: Network, mesh: jax.sharding.Mesh
) -> TrainState:
    """The train state of a checkpoint as it was saved, laid out on this mesh whatever mesh it was saved from."""
    saved = _read_stored(configs.from_json(record["config"]), f"checkpoint {step}")
    params, batch_stats = network.init()
    averaged = saved.optimizer.ema_decay > 0
    # Earlier releases kept no averages of the statistics.
    averaged_stats = averaged and "ema_batch_stats" in record.get("arrays", {})
    shapes = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=_optimizer_shapes(saved, network, params, step),
        ema=params if averaged else None,
        ema_batch_stats=batch_stats if averaged_stats else None,
    )
    shapes = shapes_on(shapes, state_sharding(mesh, shapes))
    like = {name: getattr(shapes, name) for name in ARRAYS if getattr(shapes, name) is not None}
    arrays = checkpoints.restore(step, like, record)
    state = TrainState(
        step=jax.device_put(np.int32(step), replicated(mesh)),
        params=arrays["params"],
        batch_stats=arrays["batch_stats"],
        opt_state=arrays["opt_state"],
        ema=arrays.get("ema"),
        ema_batch_stats=arrays.get("ema_batch_stats"),
    )
    if averaged and not averaged_stats:
        state.ema_batch_stats = jax.tree.map(jnp.copy, state.batch_stats)
    return state


def _optimizer_shapes(saved: Experiment, network: Network, params: Flat, step: int) -> Any:
    """Shapes of the optimizer state that a run had after `step` steps."""
    groups = parameter_groups.choose(saved.groups, saved.preset, network.stages)
    labels = parameter_groups.assign(groups, params)
    # It belongs to the groups that learned in the step before it. The schedule holds no state.
    before = max(step - 1, 0)
    transformation = make_optimizer(saved.optimizer, groups, labels, optax.constant_schedule(0.0), before)
    return jax.eval_shape(transformation.init, params)


def adopt(state: TrainState, recipe: Recipe, step: int, mesh: jax.sharding.Mesh) -> TrainState:
    """The restored state as this recipe wants it: what fits is carried over, what is new starts afresh, and is said."""
    wanted = jax.eval_shape(recipe.optimizer(max(step - 1, 0)).init, state.params)
    _, afresh = carry_over(state.opt_state, wanted)
    if afresh or not same_structure(state.opt_state, wanted):
        layout = state_sharding(mesh, wanted)
        fresh = jax.jit(recipe.optimizer(max(step - 1, 0)).init, out_shardings=layout)(state.params)
        state.opt_state, _ = carry_over(state.opt_state, fresh)
        if afresh:
            log.warning(
                "the optimizer's state starts afresh at step %d for: %s", step, ", ".join(sorted(afresh))
            )
    if recipe.averages and state.ema is None:
        state.ema = jax.tree.map(jnp.copy, state.params)
        state.ema_batch_stats = jax.tree.map(jnp.copy, state.batch_stats)
        log.warning("the moving average starts at step %d", step)
    if not recipe.averages:
        state.ema = state.ema_batch_stats = None
    return state
