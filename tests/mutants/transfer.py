"""Faults of transfer: weights of a run, its stages, and learning without labels."""

from tests.mutants.mutant import Mutant

_TRANSFER = "tests/osteojax/train/test_transfer.py"
_STAGES = "tests/osteojax/train/test_stages.py"
_SIAMESE = "tests/osteojax/train/test_siamese.py"

TRANSFER: tuple[Mutant, ...] = (
    Mutant(
        "transfer: batch-norm statistics stay behind",
        "osteojax/train/transfer.py",
        "for path, x in (source.params | source.batch_stats).items()",
        "for path, x in (source.params | {k: v * 0 for k, v in source.batch_stats.items()}).items()",
        (f"{_TRANSFER}::test_backbone_and_statistics_are_the_runs_averages_and_the_head_is_fresh",),
    ),
    Mutant(
        "transfer: the head comes along unasked",
        "osteojax/train/initialise.py",
        "weights.apply(model, of_run, head=experiment.transfer.head)",
        'weights.apply(model, of_run, head="keep")',
        (f"{_TRANSFER}::test_backbone_and_statistics_are_the_runs_averages_and_the_head_is_fresh",),
    ),
    Mutant(
        "transfer: another network is taken",
        "osteojax/train/transfer.py",
        "if architecture != model.name:",
        "if False:",
        (f"{_TRANSFER}::test_another_network_is_refused",),
    ),
    Mutant(
        "transfer: another normalisation is taken",
        "osteojax/train/transfer.py",
        "if then is not None and then != now:",
        "if False:",
        (f"{_TRANSFER}::test_another_normalisation_of_the_input_is_refused",),
    ),
    Mutant(
        "transfer: validation of the earlier run counts as unseen",
        "osteojax/run/learned.py",
        '{"train", validation} - {NO_SPLIT}',
        '{"train"} - {validation}',
        (f"{_TRANSFER}::test_what_the_weights_learned_from_may_not_be_what_the_run_is_judged_by",),
    ),
    Mutant(
        "transfer: what this run is validated on may leak",
        "osteojax/run/learned.py",
        '{"val", "test", validation} - {NO_SPLIT, "train"}',
        '{"test"} - {validation}',
        (f"{_TRANSFER}::test_what_the_weights_learned_from_may_not_be_what_the_run_is_judged_by",),
    ),
    Mutant(
        "transfer: what the earlier run started from is forgotten",
        "osteojax/train/start.py",
        "learned is None or earlier is None else learned + earlier",
        "learned is None or earlier is None else learned",
        (f"{_TRANSFER}::test_what_a_run_started_from_counts_for_the_run_that_starts_from_it",),
    ),
    Mutant(
        "transfer: an allowed leak leaves no mark",
        "osteojax/train/transfer.py",
        '"allowed": allowed and any(shared.values())',
        '"allowed": False',
        (f"{_TRANSFER}::test_a_run_that_was_allowed_to_share_something_is_marked",),
    ),
    Mutant(
        "stages: the first one is looked at for ever",
        "osteojax/train/stages.py",
        'config.get("pretrain") and not _has_begun(workdir)',
        'config.get("pretrain")',
        (f"{_STAGES}::test_once_it_has_begun_the_second_stage_needs_the_first_no_more",),
    ),
    Mutant(
        "stages: the second starts from published weights",
        "osteojax/train/start.py",
        "(workdir / EARLIER, EARLIER) if experiment.pretrain else",
        "(workdir / EARLIER, EARLIER) if experiment.weights else",
        (f"{_STAGES}::test_the_second_stage_starts_from_the_best_of_the_first_and_is_the_run",),
    ),
    Mutant(
        "stages: another first stage is accepted",
        "osteojax/train/start.py",
        "if key in _SETTLED or _is_earlier(key)",
        "if key in _SETTLED",
        (f"{_STAGES}::test_the_first_stage_of_a_started_run_cannot_be_another",),
    ),
    Mutant(
        "SimSiam: no stop-gradient on the second view",
        "osteojax/train/siamese.py",
        "_distance(p1, jax.lax.stop_gradient(z2))",
        "_distance(p1, z2)",
        (f"{_SIAMESE}::test_no_gradient_flows_into_what_is_predicted",),
    ),
    Mutant(
        "SimSiam: no stop-gradient on the first view",
        "osteojax/train/siamese.py",
        "_distance(p2, jax.lax.stop_gradient(z1))",
        "_distance(p2, z1)",
        (f"{_SIAMESE}::test_no_gradient_flows_into_what_is_predicted",),
    ),
    Mutant(
        "SimSiam: a view predicts itself",
        "osteojax/train/siamese.py",
        "(p1, z1), (p2, z2) = (jnp",
        "(p1, z2), (p2, z1) = (jnp",
        (f"{_SIAMESE}::test_the_loss_is_chens_and_hes",),
    ),
    Mutant(
        "SimSiam: both views are one",
        "osteojax/train/siamese.py",
        "jax.random.fold_in(key, view)",
        "jax.random.fold_in(key, 0 * view)",
        (f"{_SIAMESE}::test_the_two_views_of_an_image_differ_and_are_those_of_the_key",),
    ),
    Mutant(
        "SimSiam: padding counts in the spread",
        "osteojax/train/siamese.py",
        "weight = (mask / jnp.sum(mask))[:, None]",
        "weight = (mask * 0 + 1 / len(mask))[:, None]",
        (f"{_SIAMESE}::test_the_spread_is_that_of_the_rows_that_count",),
    ),
    Mutant(
        "SimSiam: padding enters the head's statistics",
        "osteojax/models/layers/siamese.py",
        "z = self.projection[-1](z, mask)",
        "z = self.projection[-1](z)",
        (f"{_SIAMESE}::test_the_head_is_the_papers_and_padding_counts_nothing",),
    ),
    Mutant(
        "SimSiam: a run without labels is opened as a classifier",
        "osteojax/run/open.py",
        'if classifies and model.head == "simsiam":',
        "if False:",
        (f"{_SIAMESE}::test_it_classifies_nothing_and_says_what_to_do",),
    ),
)
