"""Faults of the recipes: losses, optimizers, schedules, augmentations and what else turns gradients into a network."""

from tests.mutants.mutant import Mutant

RECIPES: tuple[Mutant, ...] = (
    Mutant(
        "focal without its power",
        "osteojax/train/losses/focal.py",
        "settings.gamma * log_rest",
        "0.0 * log_rest",
        ("tests/osteojax/train/test_losses.py::test_focal_is_lins_formula",),
    ),
    Mutant(
        "the prior taken out with the wrong sign",
        "osteojax/train/losses/logit_adjustment.py",
        "logits + settings.tau",
        "logits - settings.tau",
        ("tests/osteojax/train/test_losses.py::test_logit_adjustment_is_menons_pairwise_form",),
    ),
    Mutant(
        "squared distance of densities in place of distributions",
        "osteojax/train/losses/squared_emd.py",
        "jnp.cumsum(jax.nn.softmax(logits), axis=-1)",
        "jax.nn.softmax(logits)",
        ("tests/osteojax/train/test_losses.py::test_squared_emd_is_the_ranked_probability_score",),
    ),
    Mutant(
        "CORAL's thresholds one class off",
        "osteojax/train/losses/coral.py",
        "label[:, None] > jnp",
        "label[:, None] >= jnp",
        ("tests/osteojax/train/test_losses.py::test_coral_is_the_sum_of_its_binary_cross_entropies",),
    ),
    Mutant(
        "effective numbers taken for frequencies",
        "osteojax/train/class_weights.py",
        "1 / -np.expm1(n * np.log(section.beta))",
        "1 / n",
        ("tests/osteojax/train/test_losses.py::test_effective_weights_are_cuis",),
    ),
    Mutant(
        "CORN does not export: the number of rows is counted",
        "osteojax/models/layers/last.py",
        "none = jnp.zeros_like(raw[:, :1])",
        "none = jnp.zeros((len(raw), 1), raw.dtype)",
        ("tests/osteojax/models/test_last.py::test_the_number_of_rows_may_be_left_open",),
    ),
    Mutant(
        "CORAL's thresholds out of order",
        "osteojax/models/layers/last.py",
        "gaps = jax.nn.softplus(self.gaps[...])",
        "gaps = jnp.abs(self.gaps[...])",
        (
            "tests/osteojax/models/test_last.py::test_coral_shares_one_direction_and_keeps_its_thresholds_in_order",
        ),
    ),
    Mutant(
        "LARS with its rate outside the velocity",
        "osteojax/train/optimizers/lars.py",
        "return decay, trust_ratio(settings.trust_coefficient), rate, velocity",
        "return decay, trust_ratio(settings.trust_coefficient), velocity, rate",
        ("tests/osteojax/train/test_optimizers.py::test_an_optimizer_is_optaxs_over_a_falling_rate",),
    ),
    Mutant(
        "LAMB decays behind its trust ratio",
        "osteojax/train/optimizers/lamb.py",
        "return adam, decay, trust_ratio(1.0), rate",
        "return adam, trust_ratio(1.0), decay, rate",
        ("tests/osteojax/train/test_optimizers.py::test_lamb_is_its_algorithm_in_numpy",),
    ),
    Mutant(
        "Adam's decay decoupled",
        "osteojax/train/optimizers/adam.py",
        "return decay, optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps), rate",
        "return optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.eps), decay, rate",
        ("tests/osteojax/train/test_optimizers.py::test_an_optimizer_is_optaxs_over_a_falling_rate",),
    ),
    Mutant(
        "a fall of the plateau forgotten",
        "osteojax/train/schedules/plateau.py",
        "optax.tree.scale(state.scale, updates)",
        "updates",
        ("tests/osteojax/train/test_schedules.py::test_a_fallen_rate_scales_the_step_and_outlives_a_phase",),
    ),
    Mutant(
        "layer decay counted from the stem",
        "osteojax/train/parameter_groups.py",
        "len(stages) - 1 - place",
        "place",
        (
            "tests/osteojax/train/test_schedules.py::test_layer_decay_is_a_power_of_the_distance_from_the_head",
        ),
    ),
    Mutant(
        "an interpolation for each warp",
        "osteojax/train/augment.py",
        "            if place == last_warp:\n                x = warp.sample(x, points)",
        "            x = warp.sample(x, points)\n            points = warp.still(*x.shape[:2])",
        ("tests/osteojax/train/test_augmentations.py::test_all_warps_together_interpolate_once",),
    ),
    Mutant(
        "RandAugment gives one too many",
        "osteojax/train/augment.py",
        "rank[place] < choose",
        "rank[place] <= choose",
        ("tests/osteojax/train/test_augmentations.py::test_randaugment_gives_each_image_as_many_as_it_says",),
    ),
    Mutant(
        "noise that does not know the dose",
        "osteojax/train/augmentations/poisson.py",
        "sigma * jnp.sqrt(image) * noise",
        "sigma * noise",
        ("tests/osteojax/train/test_augmentations.py::test_poisson_noise_has_the_variance_of_its_photons",),
    ),
    Mutant(
        "padding mixed in",
        "osteojax/train/mix.py",
        "real = mask > 0",
        "real = mask >= 0",
        (
            "tests/osteojax/train/test_mix.py::test_partners_are_a_permutation_of_the_real_rows_and_padding_is_left_alone",
        ),
    ),
    Mutant(
        "CutMix keeps the share that was drawn",
        "osteojax/train/mix.py",
        "jnp.where(cuts, 1 - inside.mean((1, 2)), share)",
        "share",
        (
            "tests/osteojax/train/test_mix.py::test_cutmix_pastes_one_rectangle_and_its_share_is_that_of_the_pixels",
        ),
    ),
    Mutant(
        "mixed labels share alike",
        "osteojax/train/step.py",
        "(1 - share) * weight[partner]",
        "share * weight[partner]",
        ("tests/osteojax/train/test_recipes.py::test_the_loss_of_mixed_rows_is_the_mixture_of_their_losses",),
    ),
    Mutant(
        "sharpness-aware descent goes down first",
        "osteojax/train/step.py",
        "p + factor * g",
        "p - factor * g",
        (
            "tests/osteojax/train/test_recipes.py::test_sharpness_aware_steps_descend_by_the_gradient_of_the_point_above",
        ),
    ),
    Mutant(
        "accumulation without its check",
        "osteojax/train/step.py",
        "if experiment.optimizer.accumulate > 1:",
        "if experiment.optimizer.accumulate > 99:",
        ("tests/osteojax/train/test_recipes.py::test_accumulation_that_batch_norm_would_notice_is_refused",),
    ),
    Mutant(
        "dropout in frozen parts",
        "osteojax/models/network.py",
        "module.deterministic = not any(name.startswith(holder) for name in trainable)",
        "module.deterministic = False",
        ("tests/osteojax/models/test_stochastic.py::test_what_is_frozen_is_never_left_out",),
    ),
    Mutant(
        "stochastic depth alike in all depths",
        "osteojax/models/layers/stochastic_depth.py",
        "rate * place / len(residual)",
        "rate",
        (
            "tests/osteojax/models/test_stochastic.py::test_rates_grow_linearly_with_depth_and_parameters_are_the_same",
        ),
    ),
    Mutant(
        "recalibration of live parameters",
        "osteojax/train/recalibrate.py",
        "add_up(sums, state.ema, state.ema_batch_stats, batch)",
        "add_up(sums, state.params, state.ema_batch_stats, batch)",
        (
            "tests/osteojax/train/test_recalibrate.py::test_the_statistics_are_those_of_the_averaged_parameters_over_the_batches",
        ),
    ),
    Mutant(
        "oversampling draws the same examples in each epoch",
        "osteojax/data/balanced.py",
        "np.asarray(places) // len(self) * self._largest + turn",
        "turn",
        (
            "tests/osteojax/data/test_balanced.py::test_classes_are_equal_in_each_epoch_and_examples_within_their_class",
        ),
    ),
    Mutant(
        "views rotated one way only",
        "osteojax/predict/views.py",
        "for a in (-_ANGLE, _ANGLE)",
        "for a in (_ANGLE, _ANGLE)",
        ("tests/osteojax/predict/test_views.py::test_rotations_go_both_ways_by_five_degrees",),
    ),
)
