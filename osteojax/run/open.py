"""One short way from a workdir to a network that answers.

run = open_run(Path("RUN"))
logits = run.logits(run.dataset().source("test"))
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from osteojax import config as configs
from osteojax import folds, leaky, storage
from osteojax.data.columns import Columns, beside, width_of
from osteojax.data.dataset import Examples, PreparedDataset
from osteojax.devices.mesh import make_mesh, replicated
from osteojax.errors import UserError
from osteojax.models.build import ModelSection, build_shapes
from osteojax.models.layers.pool import global_avg_pool
from osteojax.models.network import Flat, Network
from osteojax.run.checkpoint import Checkpoints, DamagedCheckpoint, shapes_on
from osteojax.run.inference import split_logits
from osteojax.run.preparation import check_same_preparation


@dataclasses.dataclass(frozen=True)
class Run:
    """A checkpoint of a run, opened for inference.

    Attributes:
        workdir: of the run.
        step: of the checkpoint.
        best_step: of the checkpoint that validation ranks first.
        record: what the checkpoint says of itself: `class_names`, `preprocessing`, `origin`, `dataset_fingerprint`...
        config: of the experiment.
        network: the model as pure functions.
        params, batch_stats: path -> array, the moving averages where they are kept, on every device of the mesh.
        mesh: all devices.
        columns: that the network takes beside the image; None where it takes none.
    """

    workdir: Path
    step: int
    best_step: int
    record: Mapping[str, Any]
    config: ml_collections.ConfigDict
    network: Network
    params: Flat
    batch_stats: Flat
    mesh: Mesh
    columns: Columns | None = None

    @property
    def class_names(self) -> list[str]:
        """In the order of the logits."""
        return list(self.record["class_names"])

    @property
    def tested(self) -> folds.Tested:
        """What the run tests and validates of a dataset of folds."""
        return folds.Tested.of(self.config)

    @property
    def mark(self) -> leaky.Mark | None:
        """Of a run that a leaky split had a part in."""
        return leaky.of(self.record)

    def own_dataset(self) -> PreparedDataset:
        """The dataset that the run learned from, with its fold as `test`.

        Raises:
            UserError: it is not at hand, or another lies in its place.
        """
        dataset = PreparedDataset.open(self.config.data.dir)
        if dataset.fingerprint != self.record["dataset_fingerprint"]:
            raise UserError(f"{dataset.directory} is not what was learned from")
        return dataset.for_fold(*self.tested)

    def dataset(self, data_dir: str | Path | None = None) -> PreparedDataset:
        """A dataset prepared as the training data were: by default those, where a run of one fold has that as `test`.

        Raises:
            UserError: there is none, or it was prepared otherwise.
        """
        dataset = PreparedDataset.open(data_dir or self.config.data.dir)
        check_same_preparation(dict(self.record), dataset)
        if dataset.fingerprint == self.record["dataset_fingerprint"]:
            return dataset.for_fold(*self.tested)
        return dataset

    @functools.cached_property
    def forward(self) -> Callable[[jax.Array], jax.Array]:
        """`f(image) -> logits`: image (B, H, W, C) float32 in [0, 1], B a multiple of the devices; (B, classes).

        Of a network that takes no columns.
        """
        apply = jax.jit(self.network.eval_function(), out_shardings=replicated(self.mesh))
        return lambda image: apply(self.params, self.batch_stats, image)

    def logits(self, source: Examples, batch_size: int | None = None) -> np.ndarray:
        """Logits (N, classes) float32 of a split, in its order, each example once."""
        return self.answers(source, batch_size)[0]

    def answers(
        self, source: Examples, batch_size: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Likewise, and the T-scores (N,) float32 where the network gives some.

        Raises:
            UserError: the network takes columns that the examples do not have.
        """
        source = beside(source, self.columns, "")
        output = split_logits(self._output, source, self.mesh, batch_size or self.config.eval.batch_size)
        return self.network.class_logits(output), self.network.t_scores(output)

    @functools.cached_property
    def _output(self) -> Callable[..., jax.Array]:
        if not self.network.gives_t_score and self.columns is None:
            return self.forward
        apply = jax.jit(self.network.output_function(), out_shardings=replicated(self.mesh))
        return lambda *inputs: apply(self.params, self.batch_stats, *inputs)

    def features(self, source: Examples) -> np.ndarray:
        """Pooled features (N, F) float32 of a split, in its order."""
        return split_logits(self._pooled, source, self.mesh, self.config.eval.batch_size)

    @functools.cached_property
    def _pooled(self) -> Callable[[jax.Array], jax.Array]:
        cut = self.network.cut()

        def pooled(params: Flat, stats: Flat, image: jax.Array) -> jax.Array:
            h = cut.by_place(cut.features(params, stats, image), image)
            return global_avg_pool(h).astype("float32")

        apply = jax.jit(pooled, out_shardings=replicated(self.mesh))
        return lambda image: apply(self.params, self.batch_stats, image)


def open_run(workdir: str | Path, step: str | int = "best", *, classifies: bool = True) -> Run:
    """Opens a checkpoint of a run; everything comes from the checkpoint itself.

    Args:
        workdir: of the run; an address on an object store is copied to this host.
        step: "best" (by validation), "last", or a number.
        classifies: whether its answers are wanted, and not its parameters alone.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it was to classify and learned without labels.
    """
    workdir = storage.localise(workdir)
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"no checkpoints in {workdir}; give the --workdir of a training run")
    checkpoints = Checkpoints(workdir / "checkpoints")
    try:
        number, best = choose_step(checkpoints, str(step)), checkpoints.best_step()
        record = checkpoints.record(number)
        config = configs.from_json(record["config"])
        model = configs.read(ModelSection, config.model, "model")
        if classifies and model.head == "simsiam":
            raise UserError(
                f"{workdir} learned without labels and tells no classes apart; train what does from its weights: "
                f"osteojax train --config.weights={workdir}"
            )
        columns = Columns.of_record(record)
        architecture, classes = record["origin"]["architecture"], len(record["class_names"])
        network = Network(build_shapes(model, architecture, classes, inputs=width_of(columns)))
        mesh = make_mesh()
        arrays = _inference_arrays(checkpoints, number, record, network, mesh)
    except DamagedCheckpoint as error:
        others = ", ".join(str(n) for n in checkpoints.steps())
        raise UserError(f"{error}; choose another with --step (there are {others})") from error
    finally:
        checkpoints.close()
    return Run(workdir, number, best, record, config, network, *arrays, mesh=mesh, columns=columns)


def _inference_arrays(
    checkpoints: Checkpoints, step: int, record: Mapping[str, Any], network: Network, mesh: Mesh
) -> tuple[Flat, Flat]:
    """Parameters and running statistics to evaluate with: the averages where they were kept."""
    saved = record.get("arrays") or record.get("checksums") or {}
    params, batch_stats = network.init()
    names = {
        "params": "ema" if "ema" in saved else "params",
        # Earlier releases kept no averages of the statistics.
        "batch_stats": "ema_batch_stats" if "ema_batch_stats" in saved else "batch_stats",
    }
    like = {names["params"]: params, names["batch_stats"]: batch_stats}
    everywhere = jax.tree.map(lambda _: replicated(mesh), like)
    arrays = checkpoints.restore(step, shapes_on(like, everywhere), record)
    return arrays[names["params"]], arrays[names["batch_stats"]]


def choose_step(checkpoints: Checkpoints, step: str) -> int:
    """The number of the checkpoint called "best", "last" or by its number.

    Raises:
        UserError: there is no such checkpoint.
    """
    present = checkpoints.steps()
    if step == "best":
        return checkpoints.best_step()
    if step == "last" and present:
        return present[-1]
    if not (step.isascii() and step.isdigit()) or int(step) not in present:
        raise UserError(f"no checkpoint {step!r}; there are best, last, {', '.join(map(str, present))}")
    return int(step)
