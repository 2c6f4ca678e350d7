"""Faults of the backbones that are no residual networks, and of the transformer behind one."""

from tests.mutants.mutant import Mutant

_PARITY = "tests/osteojax/models/test_models_parity.py"
_SMALL = "tests/osteojax/models/test_transformers.py"
_HEAD = "tests/osteojax/models/test_attention_head.py"

BACKBONES: tuple[Mutant, ...] = (
    Mutant(
        "positions repeated, not interpolated",
        "osteojax/models/vit.py",
        '"cubic", antialias=True',
        '"nearest"',
        (f"{_PARITY}::test_positions_are_interpolated_as_timm_interpolates_them",),
    ),
    Mutant(
        "positions of another grid are taken as they are",
        "osteojax/models/vit.py",
        "if (rows, columns) != (_GRID, _GRID):",
        "if False:",
        (
            "tests/osteojax/models/test_models.py::"
            "test_every_classifier_takes_both_sizes_and_stems_of_one_and_three_channels[vit_small_patch16-448-3]",
        ),
    ),
    Mutant(
        "no stem takes colours",
        "osteojax/models/layers/convolution.py",
        "if image.channels == 3 or with_map:",
        "if with_map:",
        (
            "tests/osteojax/models/test_models.py::"
            "test_every_classifier_takes_both_sizes_and_stems_of_one_and_three_channels[resnet18-448-3]",
        ),
    ),
    Mutant(
        "incomplete patches dropped",
        "osteojax/models/vit.py",
        "return (0, -height % self.stride), (0, -width % self.stride)",
        "return (0, 0), (0, 0)",
        (f"{_PARITY}::test_a_size_that_leaves_remainders_equals_pytorch[vit_small_patch16]",),
    ),
    Mutant(
        "layer norms with batch norm's epsilon",
        "osteojax/models/vit.py",
        "_EPS = 1e-6",
        "_EPS = 1e-5",
        (f"{_PARITY}::test_norms_have_the_publishers_constants[vit_small_patch16]",),
    ),
    Mutant(
        "opposite edges meet in a shifted window",
        "osteojax/models/swin.py",
        "bias = bias + _shut((rows, columns), shifts)",
        "bias = bias + 0 * _shut((rows, columns), shifts)",
        (f"{_SMALL}::test_pixels_from_opposite_edges_do_not_meet_in_a_shifted_window",),
    ),
    Mutant(
        "windows never shifted",
        "osteojax/models/swin.py",
        "shifts = [_WINDOW // 2 * (position % 2) for position in range(depth)]",
        "shifts = [0 for position in range(depth)]",
        (f"{_PARITY}::test_every_block_equals_pytorch[swin_t]",),
    ),
    Mutant(
        "squeeze-and-excitation narrows to a quarter of the wrong width",
        "osteojax/models/inverted_residual.py",
        "max(1, inputs // squeeze)",
        "max(1, expansion * inputs // squeeze)",
        ("tests/osteojax/weights/test_weights.py::test_a_state_dict_with_the_publishers_names_loads",),
    ),
    Mutant(
        "a transformer's branch left out for all images at once",
        "osteojax/models/layers/transformer.py",
        "self.drop(y[:, None])[:, 0]",
        "self.drop(y[None])[0]",
        (f"{_SMALL}::test_branches_are_left_out_for_an_image_at_a_time[small_vit]",),
    ),
    Mutant(
        "the class token among the patches of a map",
        "osteojax/models/network.py",
        "h[:, 1:].reshape",
        "h[:, :-1].reshape",
        (f"{_SMALL}::test_maps_of_tokens_lie_where_their_patches_lie",),
    ),
    Mutant(
        "maps of a vision transformer behind its last block",
        "osteojax/models/network.py",
        "self.stages[-2] if self._model.patch is None else self.stages[-3]",
        "self.stages[-2]",
        (f"{_SMALL}::test_maps_of_tokens_lie_where_their_patches_lie",),
    ),
    Mutant(
        "attention rolled out from the first block",
        "osteojax/models/layers/attention_head.py",
        "for mixture in reversed(mixtures):",
        "for mixture in mixtures:",
        (f"{_HEAD}::test_the_head_is_the_mean_of_its_tokens_by_one_query_and_looks_by_rollout",),
    ),
    Mutant(
        "tokens without positions",
        "osteojax/models/layers/attention_head.py",
        "x = x + sine_positions(rows, columns, x.shape[-1]).astype(x.dtype)",
        "x = x + 0 * sine_positions(rows, columns, x.shape[-1]).astype(x.dtype)",
        (f"{_HEAD}::test_the_head_is_the_mean_of_its_tokens_by_one_query_and_looks_by_rollout",),
    ),
    Mutant(
        "queries, keys and values of a Google file in another order",
        "osteojax/models/vit.py",
        'for part in ("query", "key", "value")',
        'for part in ("key", "query", "value")',
        ("tests/osteojax/weights/test_weights.py::test_the_npz_of_google",),
    ),
    Mutant(
        "timm's transitions a stage too early",
        "osteojax/models/swin.py",
        'f"layers.{int(m[1]) - 1}.downsample.{m[2]}"',
        'f"layers.{int(m[1]) - 2}.downsample.{m[2]}"',
        (
            "tests/osteojax/weights/test_weights.py::"
            "test_the_layout_of_timm_asks_for_exactly_the_tensors_of_its_network[swin_t]",
        ),
    ),
    Mutant(
        "frozen parameters added to",
        "osteojax/train/step.py",
        "params = frozen | {path: p + updates[path] for path, p in learned.items()}",
        "params = {path: p + updates[path] for path, p in state.params.items()}",
        ("tests/osteojax/train/test_frozen_depth.py",),
    ),
    Mutant(
        "operations counted twice",
        "osteojax/models/listing.py",
        'flops=cost.get("flops", math.nan)',
        'flops=2 * cost.get("flops", math.nan)',
        ("tests/osteojax/models/test_listing.py::test_size_and_cost_are_torchvisions",),
    ),
)
