"""Faults of the linear probe: what it minimises, what chooses, what is written."""

from tests.mutants.mutant import Mutant

_TESTS = "tests/osteojax/train/test_probe.py"
_PATH = f"{_TESTS}::test_the_path_is_that_of_scikit_learn"
_CHOICE = f"{_TESTS}::test_validation_alone_chooses_and_the_checkpoint_answers_as_the_probe"
_REFUSED = f"{_TESTS}::test_what_is_no_probe_is_one_sentence"

PROBE: tuple[Mutant, ...] = (
    Mutant(
        "probe: a penalty twice as strong",
        "osteojax/train/logistic.py",
        "strength / 2 * jnp.sum",
        "strength * jnp.sum",
        (_PATH,),
    ),
    Mutant(
        "probe: the bias is penalised",
        "osteojax/train/logistic.py",
        "jnp.sum(parameters[0] ** 2)",
        "(jnp.sum(parameters[0] ** 2) + jnp.sum(parameters[1] ** 2))",
        (_PATH,),
    ),
    Mutant(
        "probe: stops too early",
        "osteojax/train/logistic.py",
        "TOLERANCE = 1e-4",
        "TOLERANCE = 1e-1",
        (_PATH,),
    ),
    Mutant(
        "probe: the mean is left in",
        "osteojax/train/logistic.py",
        "bias - mean @ kernel",
        "bias",
        (_PATH,),
    ),
    Mutant(
        "probe: classes weigh the same",
        "osteojax/train/probe.py",
        "np.asarray(class_weights(experiment.loss, counts))[labels]",
        "np.ones(len(labels))",
        (_CHOICE,),
    ),
    Mutant(
        "probe: chosen by the training data",
        "osteojax/train/probe.py",
        "result = scores.validation_metrics(logits, val_labels)",
        "result = scores.validation_metrics((features @ path.kernel[number] + path.bias[number]).astype(np.float32), labels)",
        (_CHOICE,),
    ),
    Mutant(
        "probe: features are augmented",
        "osteojax/train/probe.py",
        'augmented=""',
        'augmented="train"',
        (f"{_TESTS}::test_the_test_split_is_not_read_and_the_cache_is_that_of_training",),
    ),
    Mutant(
        "probe: the head of another strength is saved",
        "osteojax/train/probe.py",
        "path.kernel[chosen]",
        "path.kernel[chosen - 1]",
        (_CHOICE,),
    ),
    Mutant(
        "probe: the test split may choose",
        "osteojax/train/experiment.py",
        'if split == "test":',
        'if split == "":',
        (_REFUSED,),
    ),
    Mutant(
        "probe: other parts may learn",
        "osteojax/train/probe.py",
        "if not set(_HEAD) <= learning <= head:",
        "if False:",
        (_REFUSED,),
    ),
    Mutant(
        "probe: the head's norm is skipped",
        "osteojax/train/prefix.py",
        "self._recipe.network.pre_logits_function(self._recipe.network.after(self._upto)),",
        "lambda params, stats, h: h,",
        (f"{_TESTS}::test_other_layers_of_a_head_stay_as_they_are[norm]",),
    ),
    Mutant(
        "probe: what the last layer takes is pooled alone",
        "osteojax/models/mobilenet.py",
        "return _SWISH(self.fc1(super().pre_logits(h)))",
        "return super().pre_logits(h)",
        (f"{_TESTS}::test_every_classifier_tells_what_its_last_layer_takes[mobilenet_v3_large]",),
    ),
    Mutant(
        "probe: a transformer of random weights is probed",
        "osteojax/train/probe.py",
        "if experiment.model.attention.blocks > 0:",
        "if False:",
        (_REFUSED,),
    ),
    Mutant(
        "probe: a class may be absent",
        "osteojax/train/probe.py",
        "    if absent:",
        "    if False:",
        (f"{_TESTS}::test_a_class_without_training_examples_is_named",),
    ),
    Mutant(
        "probe: another run is overwritten or taken for this one",
        "osteojax/train/probe.py",
        "or not same:",
        "or False:",
        (f"{_TESTS}::test_it_is_a_run_like_any_other_and_is_not_done_twice",),
    ),
)
