"""A Flax NNX model as pure functions of flat trees, path -> array."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
from flax import nnx

from osteojax import models
from osteojax.models.layers.joined import Joined
from osteojax.models.layers.t_score import PARAMETERS, TScore, WithTScore

# The part that takes images.
FIRST = models.STAGES[0]
# Trees of parameters are flat dictionaries, path -> array, throughout the training code.
Flat = dict[str, Any]


def flat(state: Any) -> Flat:
    """Path -> array of an NNX state; paths are joined by slashes (`stage1/0/conv1/kernel`)."""
    return dict(zip(_paths(state), jax.tree.leaves(state), strict=True))


def _paths(state: Any) -> list[str]:
    return ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]


def unflat(template: Any, values: Mapping[str, Any]) -> Any:
    """Inverse of `flat`, in the structure of the state `template`."""
    return jax.tree.unflatten(jax.tree.structure(template), [values[path] for path in _paths(template)])


def freeze_batch_norm(model: nnx.Module, trainable: Collection[str]) -> None:
    """Train mode, but inference mode for each batch norm none of whose own parameters learns.

    Such a layer normalises by its running statistics and leaves them alone: frozen means frozen. A dropout is at work
    where a parameter of the module that holds it learns.
    """
    model.train()
    for path, module in nnx.iter_modules(model):
        if hasattr(module, "use_running_average"):
            own = "".join(f"{part}/" for part in path)
            module.use_running_average = not any(name.startswith(own) for name in trainable)
        if isinstance(module, nnx.Dropout):
            holder = "".join(f"{part}/" for part in path[:-1])
            module.deterministic = not any(name.startswith(holder) for name in trainable)


@dataclasses.dataclass(frozen=True)
class Cut:
    """A network in inference mode, cut in two behind one of its parts.

    Attributes:
        features: `f(params, stats, image) -> h`: images (B, H, W, C) float32 in [0, 1] to activations (B, h, w, c), or
            tokens (B, 1 + h w, c), in the compute dtype.
        from_features: `f(params, stats, h) -> logits` (B, classes) float32.
        patch: of the `Backbone`.
        attention: `f(params, stats, image)`: where the head looks (B, h, w) float32, whatever the class; None for heads
            without attention.
    """

    features: Callable[[Flat, Flat, jax.Array], jax.Array]
    from_features: Callable[[Flat, Flat, jax.Array], jax.Array]
    patch: int | None = None
    attention: Callable[[Flat, Flat, jax.Array], jax.Array] | None = None

    def by_place(self, h: jax.Array, image: jax.Array) -> jax.Array:
        """(B, h, w, c) of activations that came from the images: tokens at their patches, without the class token."""
        if self.patch is None:
            return h
        rows, columns = (-(-side // self.patch) for side in image.shape[1:3])
        return h[:, 1:].reshape(h.shape[0], rows, columns, h.shape[-1])

    def logits(self, params: Flat, stats: Flat, image: jax.Array) -> jax.Array:
        """(B, classes) float32 of images (B, H, W, C): both halves, one after the other."""
        return self.from_features(params, stats, self.features(params, stats, image))


class Network:
    """The train and evaluation functions of a model.

    The parameters and running statistics live outside, in the train state: the same `Network` serves any of them.

    Attributes:
        stages: names of the model's parts, in order.
        takes_columns: whether it takes a patient's columns (B, F) beside the image; its functions then want them.
        gives_t_score: whether its output ends with a T-score's distribution (`osteojax.models.layers.t_score`).
    """

    def __init__(self, model: models.Backbone) -> None:
        self._model = model
        self.stages = models.stages(model)
        self.takes_columns = model.takes_columns
        last = getattr(model.head, "fc", None)
        last = last.last if isinstance(last, Joined) else last
        self.gives_t_score = isinstance(last, TScore | WithTScore)
        parts: Any = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        _, self._params, self._stats, self._rest = parts

    def init(self) -> tuple[Flat, Flat]:
        """Parameters and running statistics that the model holds now."""
        return flat(self._params), flat(self._stats)

    def moving_statistics(self, trainable: Collection[str]) -> frozenset[str]:
        """Paths of the running statistics that training moves: those of layers of which a parameter learns."""
        layers = {path.rpartition("/")[0] for path in trainable}
        return frozenset(path for path in flat(self._stats) if path.rpartition("/")[0] in layers)

    def train_function(self, trainable: Collection[str], start: str = FIRST) -> Any:
        """`f(params, stats, image, mask, key, clinical) -> (output, new stats)` with the given parameters learning.

        image (B, H, W, C) float32 in [0, 1], or the input of the part `start` where the network runs from there; mask
        (B,) 1 for examples and 0 for padding; clinical (B, F) float32, or None; output (B, ...) float32, of which
        `class_logits` are (B, classes).
        """
        freeze_batch_norm(self._model, trainable)
        graph = nnx.graphdef(self._model)

        def apply(
            params: Flat,
            stats: Flat,
            image: jax.Array,
            mask: jax.Array,
            key: jax.Array,
            clinical: jax.Array | None = None,
        ) -> tuple[jax.Array, Flat]:
            model = self._merge(graph, params, stats)
            nnx.reseed(model, default=key, dropout=key)
            output = model.from_features(image, start, mask=mask, clinical=clinical)
            return output, flat(nnx.state(model, nnx.BatchStat))

        return apply

    def statistics_function(self, trainable: Collection[str]) -> Any:
        """As `train_function`, but gives the statistics alone, those of this batch without the running ones."""
        norms: list[Any] = [m for _, m in nnx.iter_modules(self._model) if hasattr(m, "use_running_average")]
        before = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        apply = self.train_function(trainable)
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
        return lambda *inputs: apply(*inputs)[1]

    def eval_function(self, start: str = FIRST) -> Any:
        """`f(params, stats, image, clinical) -> logits` of `output_function`."""
        apply = self.output_function(start)
        return lambda *inputs: self.class_logits(apply(*inputs))

    def output_function(self, start: str = FIRST) -> Any:
        """`f(params, stats, image, clinical) -> output` with every batch norm in inference mode and no dropout.

        image (B, H, W, C) float32 in [0, 1], or the input of the part `start`; clinical as in training, None where it
        is left out.
        """
        self._model.eval()
        graph = nnx.graphdef(self._model)

        def apply(
            params: Flat, stats: Flat, image: jax.Array, clinical: jax.Array | None = None
        ) -> jax.Array:
            return self._merge(graph, params, stats).from_features(image, start, clinical=clinical)

        return apply

    def pre_logits_function(self, start: str = FIRST) -> Any:
        """`f(params, stats, h) -> (B, F) float32` that the last layer takes, in inference mode.

        h is images (B, H, W, C) float32 in [0, 1], or the input of the part `start`.

        Raises:
            ValueError: the head does not tell (`gives_pre_logits`).
        """
        if not self.gives_pre_logits:
            raise ValueError("the head of this network has no pre_logits")
        self._model.eval()
        graph = nnx.graphdef(self._model)
        return lambda params, stats, h: self._merge(graph, params, stats).pre_logits(h, start)

    @property
    def gives_pre_logits(self) -> bool:
        """Whether the head tells what its last layer takes."""
        return hasattr(self._model.head, "pre_logits")

    def class_logits(self, output: Any) -> Any:
        """(B, classes) of an output."""
        return output[:, :-PARAMETERS] if self.gives_t_score else output

    def t_scores(self, output: Any) -> Any:
        """(B,) of an output; None where the network gives none."""
        return output[:, -PARAMETERS] if self.gives_t_score else None

    @property
    def cuts(self) -> tuple[str, ...]:
        """The parts behind which the network can be cut, in order."""
        pool = (models.POOL,) if hasattr(self._model.head, models.POOL) else ()
        return self.stages[:-1] + pool

    @property
    def last_map(self) -> str:
        """The last part behind which every place has a say in the logits: behind `stage4` of a plain vision
        transformer the class token alone has one."""
        return self.stages[-2] if self._model.patch is None else self.stages[-3]

    def after(self, upto: str) -> str:
        """The part that takes what comes out of the part `upto`.

        Raises:
            ValueError: there is no such part, or nothing comes after it.
        """
        if upto not in self.cuts:
            raise ValueError(f"no part {upto!r} to cut behind; there are {', '.join(self.cuts)}")
        return self.stages[-1] if upto == models.POOL else self.stages[self.stages.index(upto) + 1]

    def cut(self, upto: str = "stage4") -> Cut:
        """The network in inference mode as two functions, cut behind the part `upto`.

        Raises:
            ValueError: there is no such part, or nothing comes after it.
        """
        start = self.after(upto)
        self._model.eval()
        graph = nnx.graphdef(self._model)

        def attention(params: Flat, stats: Flat, image: jax.Array) -> jax.Array:
            model = self._merge(graph, params, stats)
            return model.head.look(model.features(image))

        return Cut(
            lambda params, stats, image: self._merge(graph, params, stats).features(image, upto),
            lambda params, stats, h: self.class_logits(
                self._merge(graph, params, stats).from_features(h, start)
            ),
            self._model.patch,
            attention if hasattr(self._model.head, "look") else None,
        )

    def _merge(self, graph: Any, params: Flat, stats: Flat) -> models.Backbone:
        # A copy: reseeding must not reach the streams of the model itself.
        rest = jax.tree.map(lambda x: x, self._rest)
        return nnx.merge(graph, unflat(self._params, params), unflat(self._stats, stats), rest)
