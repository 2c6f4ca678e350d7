"""Faults of what the steps read: the frozen prefix's cache, packed pixels, splits held in memory or on the device."""

from tests.mutants.mutant import Mutant

_PREFIX = "tests/osteojax/train/test_prefix.py"
_READ = f"{_PREFIX}::test_what_is_read_is_what_the_network_makes_of_the_images"
_STALE = f"{_PREFIX}::test_activations_of_something_else_are_not_found"

FEED: tuple[Mutant, ...] = (
    Mutant(
        "several steps a call: only where all of them fit before the next line",
        "osteojax/train/loop.py",
        "count = 1 << (min(experiment.train.steps_per_call, *ahead).bit_length() - 1)",
        "count = experiment.train.steps_per_call if experiment.train.steps_per_call <= min(ahead) else 1",
        ("tests/osteojax/train/test_prefix.py::test_several_steps_a_call_are_the_same_steps",),
    ),
    Mutant(
        "prefix: keyed without its weights",
        "osteojax/train/prefix.py",
        "            weights=self._weights,",
        '            weights="",',
        (_STALE,),
    ),
    Mutant(
        "prefix: keyed without its dataset",
        "osteojax/train/prefix.py",
        "            dataset=dataset.fingerprint,",
        '            dataset="",',
        (_STALE,),
    ),
    Mutant(
        "prefix: keyed without its preprocessing",
        "osteojax/train/prefix.py",
        "json.dumps(dataset.preprocessing, sort_keys=True).encode()",
        'b""',
        (_STALE,),
    ),
    Mutant(
        "prefix: the weights behind it are part of its key",
        "osteojax/train/prefix.py",
        'if path.partition("/")[0] in parts:',
        'if path.partition("/")[0]:',
        (f"{_PREFIX}::test_weights_behind_the_prefix_do_not_count",),
    ),
    Mutant(
        "prefix: one part too long",
        "osteojax/train/prefix.py",
        "stages[stages.index(first) - 1] if first",
        "first if first",
        (f"{_PREFIX}::test_the_prefix_ends_before_the_first_part_that_learns",),
    ),
    Mutant(
        "prefix: a spec is believed",
        "osteojax/data/activations.py",
        "if found != spec.to_json():",
        "if False:",
        (f"{_PREFIX}::test_a_folder_under_a_false_name_is_refused",),
    ),
    Mutant(
        "prefix: all views alike",
        "osteojax/train/prefix.py",
        "of_view = jax.random.fold_in(stream, view)",
        "of_view = jax.random.fold_in(stream, 0 * view)",
        (f"{_PREFIX}::test_augmented_views_are_those_of_their_keys_and_the_epochs_take_them_in_turn",),
    ),
    Mutant(
        "batches: always the first view",
        "osteojax/data/batches.py",
        "step // self._plan.steps % self._source.views",
        "0 * step",
        (f"{_PREFIX}::test_augmented_views_are_those_of_their_keys_and_the_epochs_take_them_in_turn",),
    ),
    Mutant(
        "prefix: never left",
        "osteojax/train/prefix.py",
        "if frozen_prefix(recipe, phase) != now), math.inf)",
        "if False), math.inf)",
        (f"{_PREFIX}::test_unfreezing_that_reaches_into_the_prefix_leaves_the_cache",),
    ),
    Mutant(
        "prefix: the disk is not asked",
        "osteojax/train/prefix.py",
        "if need > free:",
        "if False:",
        (f"{_PREFIX}::test_a_disk_that_is_too_small_is_told_before_anything_is_computed",),
    ),
    Mutant(
        "prefix: shards computed again",
        "osteojax/train/prefix.py",
        "present[part.store.missing()] = False",
        "present[:] = False",
        (f"{_PREFIX}::test_a_build_that_is_killed_goes_on_where_it_was",),
    ),
    Mutant(
        "prefix: half of a shard under its name",
        "osteojax/data/activations.py",
        "temporary.replace(self.path(shard))",
        "None",
        (f"{_PREFIX}::test_each_view_of_each_example_is_read_in_the_order_that_is_asked_for",),
    ),
    Mutant(
        "activations: parts of a split in one",
        "osteojax/data/activations.py",
        "records = (rows[places] - first +",
        "records = (rows[places] - 0 * first +",
        (f"{_PREFIX}::test_parts_of_a_split_follow_each_other",),
    ),
    Mutant(
        "pixels: packed whatever is lost",
        "osteojax/data/pixels.py",
        "return packed if (packed == scaled).all() else None",
        "return packed",
        (f"{_PREFIX}::test_pixels_that_are_finer_are_held_as_they_are",),
    ),
    Mutant(
        "memory: labels of the order they were read in",
        "osteojax/data/memory.py",
        "labels[rows[0] : rows[-1] + 1] = label",
        "labels[: len(label)] = label",
        (f"{_PREFIX}::test_pixels_that_are_finer_are_held_as_they_are",),
    ),
    Mutant(
        "device: the rows of another view",
        "osteojax/train/feed.py",
        "rows + np.int32(view * len(self))",
        "rows",
        (f"{_PREFIX}::test_row_numbers_count_through_the_views",),
    ),
)
