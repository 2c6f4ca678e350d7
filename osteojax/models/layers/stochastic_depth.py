"""Stochastic depth: in training, residual branches that are left out (Huang et al. 2016)."""

from flax import nnx

from osteojax.errors import UserError
from osteojax.models.backbone import Backbone, Stage


def thin(model: Backbone, rate: float, *, rngs: nnx.Rngs) -> None:
    """Gives each residual block a chance to be its shortcut alone, for each image by itself.

    It grows along the network: block l of L is left out with probability l / L times `rate` (section 3, "linear
    decay"). What stays is divided by its chance, so that inference needs no factor. A block whose parameters are all
    frozen is never left out (`osteojax.models.network`).

    Raises:
        UserError: the architecture has no residual branch (VGG, DenseNet).
    """
    stages = (model.stage1, model.stage2, model.stage3, model.stage4)
    blocks = [block for stage in stages if isinstance(stage, Stage) for block in stage.blocks]
    residual = [block for block in blocks if hasattr(block, "drop")]
    if not residual:
        raise UserError(
            f"model.stochastic_depth={rate:g}: {model.arch} has no residual branch to leave out; set it to 0"
        )
    for place, block in enumerate(residual, 1):
        # One draw for an image: the same for all rows, columns and channels.
        drop = nnx.Dropout(rate * place / len(residual), broadcast_dims=(1, 2, 3), rngs=rngs)
        block.drop = nnx.data(drop)
