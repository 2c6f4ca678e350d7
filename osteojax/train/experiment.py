"""The experiment's config as typed sections, checked before anything is written.

Each name of a registry (optimizer, schedule, loss, metric) is looked up at the door, and so is what the dataset must
have; `configs/train/paper_resnet50.py` holds the meaning of every key.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import ml_collections

from osteojax import folds
from osteojax.config import AtLeastOne, Bound, Fraction, NotNegative, Positive, Share, read
from osteojax.data.columns import check_columns, check_no_answer
from osteojax.data.dataset import NO_SPLIT, PreparedDataset
from osteojax.errors import UserError
from osteojax.metrics.registry import Direction, scalar
from osteojax.models.build import ModelSection
from osteojax.models.layers.t_score import WHO
from osteojax.train import augment
from osteojax.train.mix import MixSection
from osteojax.train.parameter_groups import ParameterGroup

log = logging.getLogger(__name__)

INITS = Literal["imagenet", "imagenet_or_random", "random"]
# A grain seed and a PRNG key take no more.
Seed = Bound(low=0, high=2**32 - 1)


AS_COMPUTED = "as_computed"


@dataclasses.dataclass(frozen=True)
class DataSection:
    """`data.*`. `hold`: where a split is kept after it was decoded once; "auto" on the host if it fits."""

    dir: str = ""
    batch_size: Annotated[int, AtLeastOne] = 32
    threads: Annotated[int, NotNegative] = 2
    hold: Literal["auto", "disk", "host", "device"] = "auto"
    sampling: Literal["all", "balanced"] = "all"


@dataclasses.dataclass(frozen=True)
class TrainSection:
    """`train.*`: how the steps are computed, not what they compute."""

    cache_prefix: bool = False
    cache_dtype: Literal["as_computed", "float32", "bfloat16", "float16"] = "as_computed"
    cache_views: Annotated[int, AtLeastOne] = 4
    cache_dir: str = ""
    steps_per_call: Annotated[int, AtLeastOne] = 1


@dataclasses.dataclass(frozen=True)
class LossSection:
    """`loss.*`: a member of `osteojax.train.losses`, what the shipped ones can be set to, and what others can."""

    name: str = "cross_entropy"
    label_smoothing: Annotated[float, Fraction] = 0.0
    class_weights: Literal["none", "balanced", "effective"] = "none"
    beta: Annotated[float, Fraction] = 0.999
    t_score_weight: Annotated[float, Positive] = 1.0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class OptimizerSection:
    """`optimizer.*`: members of `osteojax.train.optimizers` and `schedules`, and their settings."""

    name: str = "adamw"
    learning_rate: Annotated[float, NotNegative] = 1e-4
    schedule: str = "cosine"
    warmup_steps: Annotated[int, NotNegative] = 0
    weight_decay: Annotated[float, NotNegative] = 1e-4
    clip_norm: Annotated[float, NotNegative] = 1.0
    ema_decay: Annotated[float, Share] = 0.0
    accumulate: Annotated[int, AtLeastOne] = 1
    sam_rho: Annotated[float, NotNegative] = 0.0
    recalibrate: Annotated[int, NotNegative] = 0
    b1: Annotated[float, Fraction] = 0.9
    b2: Annotated[float, Fraction] = 0.999
    eps: Annotated[float, Positive] = 1e-8
    momentum: Annotated[float, Fraction] = 0.9
    nesterov: bool = False
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    schedule_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EvalSection:
    """`eval.*`: validation. A split of "none" trains without."""

    split: str = "val"
    batch_size: Annotated[int, AtLeastOne] = 32
    every_steps: Annotated[int, NotNegative] = 0


@dataclasses.dataclass(frozen=True)
class BestSection:
    """`best.*`: what ranks the checkpoints."""

    metric: str = "cross_entropy"
    mode: Literal["auto", "max", "min"] = "auto"
    patience: Annotated[int, NotNegative] = 0

    @property
    def direction(self) -> Direction:
        """ "max" or "min": the metric's own, unless the config insists."""
        return scalar(self.metric).direction if self.mode == "auto" else self.mode


@dataclasses.dataclass(frozen=True)
class CheckpointSection:
    """`checkpoint.*`."""

    every_steps: Annotated[int, NotNegative] = 0
    keep: Annotated[int, AtLeastOne] = 2


@dataclasses.dataclass(frozen=True)
class MeshSection:
    """`mesh.*`: see `osteojax.devices.mesh.make_mesh`."""

    data: Annotated[int, Bound(low=-1)] = -1
    fsdp: Annotated[int, AtLeastOne] = 1


@dataclasses.dataclass(frozen=True)
class TransferSection:
    """`transfer.*`: of `weights` that are a run of ours.

    Attributes:
        head: whether the last layer is new, or the run's, which needs the same classes.
        allow_overlap: start although patients or images that this run is judged by were learned from; it is marked.
    """

    head: Literal["reset", "keep"] = "reset"
    allow_overlap: bool = False


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a training run can be told. `pretrain`: the config of an earlier stage; empty for none."""

    model: ModelSection
    seed: Annotated[int, Seed] = 0
    init: INITS = "imagenet"
    weights: str = ""
    transfer: TransferSection = dataclasses.field(default_factory=TransferSection)
    pretrain: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    preset: str = "stage3+"
    groups: tuple[ParameterGroup, ...] = ()
    data: DataSection = dataclasses.field(default_factory=DataSection)
    augment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    mix: MixSection = dataclasses.field(default_factory=MixSection)
    loss: LossSection = dataclasses.field(default_factory=LossSection)
    optimizer: OptimizerSection = dataclasses.field(default_factory=OptimizerSection)
    fold: Annotated[int, Bound(low=folds.NONE)] = folds.NONE
    repeat: Annotated[int, NotNegative] = 0
    val_fold: Annotated[int, Bound(low=folds.NONE)] = folds.NONE
    epochs: Annotated[float, Positive] = 30.0
    train: TrainSection = dataclasses.field(default_factory=TrainSection)
    eval: EvalSection = dataclasses.field(default_factory=EvalSection)
    best: BestSection = dataclasses.field(default_factory=BestSection)
    checkpoint: CheckpointSection = dataclasses.field(default_factory=CheckpointSection)
    mesh: MeshSection = dataclasses.field(default_factory=MeshSection)
    log_every: Annotated[int, AtLeastOne] = 10

    @property
    def tested(self) -> folds.Tested:
        """What is tested and validated of a dataset of folds."""
        return folds.Tested(self.fold, self.repeat, self.val_fold)


def read_experiment(config: Mapping[str, Any]) -> Experiment:
    """The experiment that a config describes.

    Args:
        config: a ConfigDict or dictionary, of this release or an earlier one.

    Raises:
        UserError: an unknown key, or a value that is not allowed.
    """
    values = dict(config)
    values.pop("dataset_fingerprint", None)  # stored beside the config in config.json
    best = dict(values.get("best", {}))
    if best.get("metric") == "loss":  # what validation's cross-entropy was called
        values["best"] = best | {"metric": "cross_entropy"}
    return read(Experiment, values)


def with_fingerprint(
    config: ml_collections.ConfigDict, dataset: PreparedDataset
) -> ml_collections.ConfigDict:
    """The config as config.json has it: with the fingerprint of the data that the run learns from."""
    return ml_collections.ConfigDict(config.to_dict() | {"dataset_fingerprint": dataset.fingerprint})


def _check_without_labels(experiment: Experiment) -> None:
    """Raises UserError for what asks for labels, or for one view of an image."""
    ask = {
        f"eval.split={experiment.eval.split!r} (set it to {NO_SPLIT!r})": experiment.eval.split != NO_SPLIT,
        "loss.*": experiment.loss != LossSection(),
        "mix.*": experiment.mix.is_on,
        "data.sampling='balanced'": experiment.data.sampling != "all",
        "train.cache_prefix": experiment.train.cache_prefix,
        "model.dropout": experiment.model.dropout > 0,
        "model.covariates": bool(experiment.model.covariates),
        "model.t_score": bool(experiment.model.t_score),
        "optimizer.accumulate": experiment.optimizer.accumulate > 1,
    }
    asked = [key for key, asks in ask.items() if asks]
    if asked:
        raise UserError(
            f"model.head='simsiam' learns without labels, from two views of each image of a batch; that has no "
            f"{', '.join(asked)}; leave them as configs/train/simsiam.py has them"
        )
    if not augment.chain(experiment.augment).members:
        raise UserError(
            "model.head='simsiam' learns from how two augmented views of an image are alike, and augment.* switches "
            "nothing on; take those of configs/train/simsiam.py"
        )


def _check_columns(experiment: Experiment, dataset: PreparedDataset) -> None:
    """Raises UserError for columns that there are not, that are the answer, or that do not go with the rest."""
    model = experiment.model
    check_no_answer(model.covariates, model.t_score)
    check_columns(model.covariates, dataset, "model.covariates")
    check_columns((model.t_score,) if model.t_score else (), dataset, "model.t_score")
    if experiment.mix.is_on and (model.covariates or model.t_score):
        raise UserError(
            "mix.* mixes images, and half an age or a T-score belongs to neither patient; set mix.mixup and mix.cutmix "
            "to 0, or leave model.covariates and model.t_score empty"
        )
    if model.head != "t_score":
        return
    if not model.t_score:
        raise UserError(
            "model.head='t_score' reads the class from a T-score; name its column, as in --config.model.t_score=t_score"
        )
    if len(dataset.class_names) != len(WHO) + 1:
        raise UserError(
            f"model.head='t_score' reads three classes at {WHO}, and {dataset.directory} has "
            f"{', '.join(dataset.class_names)}; choose another head"
        )
    alone = dataclasses.replace(experiment.loss, t_score_weight=LossSection().t_score_weight)
    if alone != LossSection():
        raise UserError(
            "model.head='t_score' learns the T-score and no class, so that loss.* has no say but for "
            "loss.t_score_weight; leave the rest as it was"
        )


def opened(config: Mapping[str, Any]) -> tuple[Experiment, PreparedDataset]:
    """The experiment and its dataset, of its fold, checked against one another; that its splits divide nobody, too.

    Raises:
        UserError: as `read_experiment` and `check`; or there is no such dataset or fold.
    """
    experiment = read_experiment(config)
    dataset = PreparedDataset.open(experiment.data.dir).for_fold(*experiment.tested)
    check(experiment, dataset)
    dataset.check_divides_nobody()
    return experiment, dataset


def check(experiment: Experiment, dataset: PreparedDataset) -> None:
    """Looks up every name and holds the experiment against the dataset, before anything is written.

    What needs the network's own parameter names, the groups, is checked where they are assigned.

    Raises:
        UserError: one sentence that names the key and what is allowed.
    """
    best, split = experiment.best, experiment.eval.split
    natural = scalar(best.metric).direction
    if best.direction != natural:
        log.warning(
            "best.mode=%s, but %s is better when it is %s; leave best.mode at 'auto' unless you mean it",
            best.mode, best.metric, "larger" if natural == "max" else "smaller",
        )  # fmt: skip
    if experiment.pretrain and (experiment.weights or experiment.init == "random"):
        raise UserError(
            f"pretrain makes the weights that this run starts from, and weights={experiment.weights!r} with "
            f"init={experiment.init!r} ask for others; leave weights empty and init at 'imagenet', or pretrain empty"
        )
    if split == "test":
        raise UserError(
            "eval.split='test': a checkpoint is chosen by validation, neither by what it learned from nor by what it "
            f"is tested on; name the validation split, or --config.eval.split={NO_SPLIT} to train without"
        )
    if experiment.model.head == "simsiam":
        _check_without_labels(experiment)
    _check_columns(experiment, dataset)
    if experiment.loss.name == "coral" and experiment.model.head != "coral":
        raise UserError(
            f"loss.name='coral' with model.head={experiment.model.head!r}: CORAL is a loss and a last layer; set "
            "model.head='coral' too, or choose another loss"
        )
    if experiment.optimizer.recalibrate and not experiment.optimizer.ema_decay:
        raise UserError(
            "optimizer.recalibrate takes the statistics of averaged parameters, and optimizer.ema_decay=0 keeps none; "
            "set both, or neither"
        )
    if experiment.data.sampling == "balanced" and (
        experiment.loss.class_weights != "none" or experiment.loss.name == "logit_adjustment"
    ):
        raise UserError(
            "data.sampling='balanced' makes all classes equally frequent, and loss.class_weights or "
            "loss.name='logit_adjustment' would count that twice; choose one of them"
        )
    if experiment.optimizer.schedule == "plateau" and split == NO_SPLIT:
        raise UserError(
            f"optimizer.schedule='plateau' with eval.split={NO_SPLIT!r}: nothing is validated, so no plateau can be "
            "seen; name a split, or choose another schedule"
        )
    if split != NO_SPLIT and not dataset.splits.get(split):
        present = ", ".join(f"{name} ({n})" for name, n in dataset.splits.items() if n)
        raise UserError(
            f"eval.split={split!r}: {dataset.directory} has no examples in it; it has {present}; choose one of them, "
            f"or --config.eval.split={NO_SPLIT} to train without validation"
        )
    if experiment.train.steps_per_call > 1 and experiment.data.hold != "device":
        raise UserError(
            f"train.steps_per_call={experiment.train.steps_per_call} needs the data on the device; set "
            "--config.data.hold=device, or leave it at 1"
        )
    if experiment.train.cache_prefix and experiment.mix.is_on:
        raise UserError(
            "mix.* mixes images, and train.cache_prefix has none, only what the network makes of each; "
            "set --config.train.cache_prefix=False, or mix.mixup and mix.cutmix to 0"
        )
    dataset.source("train")
