"""What a header holds told, keys kept, and writing left in the picture."""

from tests.mutants.mutant import Mutant

_PRIVACY = "tests/data_prep/test_privacy.py"
_TOLD = (f"{_PRIVACY}::test_nothing_of_a_header_is_told",)
_FAILS = (f"{_PRIVACY}::test_nothing_is_told_when_the_work_is_killed_or_fails",)
_WRITING = "tests/data_prep/test_burned_in.py"

PRIVACY = (
    Mutant(
        "any text in the header taken for a sex",
        "data_prep/decode/dicom.py",
        'found["sex"] = sex if sex in _SEXES else ""',
        'found["sex"] = sex',
        _TOLD,
    ),
    Mutant(
        "the study's description taken along",
        "data_prep/decode/dicom.py",
        '    "ViewPosition": "view",\n',
        '    "ViewPosition": "view",\n    "StudyDescription": "study",\n',
        _TOLD,
    ),
    Mutant(
        "a refused modality quoted",
        "data_prep/decode/dicom.py",
        "    if modality not in {*_MODALITIES, *_OBJECTS.values(), *limits.modalities}:\n",
        "    if not modality:\n",
        _TOLD,
    ),
    Mutant(
        "the function of a window quoted",
        "data_prep/decode/presentation.py",
        '"its function is none of the standard\'s"',
        'f"there is no function {function[:20]!r}"',
        _TOLD,
    ),
    Mutant(
        "any text in the header taken for a date",
        "data_prep/decode/dicom.py",
        "        except UserError:\n            continue\n",
        "        except UserError:\n            return str(dataset.get(key))\n",
        (f"{_PRIVACY}::test_what_stands_in_the_place_of_a_date_is_not_told",),
    ),
    Mutant(
        "dates in every cache",
        "data_prep/image_task.py",
        "date=radiograph.date if task.dated else None",
        "date=radiograph.date",
        (f"{_PRIVACY}::test_a_date_lies_in_the_cache_only_where_the_split_asks_for_it", *_FAILS),
    ),
    Mutant(
        "the traceback of a defect, with its message",
        "data_prep/image_task.py",
        'log.error("%s: preprocessing failed, a defect of the program: %s", task.shown, untold(error))',
        'log.exception("%s: preprocessing failed: %s", task.shown, untold(error))',
        _FAILS,
    ),
    Mutant(
        "Pillow's debugging lines let through",
        "data_prep/decode/pillow.py",
        'logging.getLogger("PIL").setLevel(logging.WARNING)',
        'logging.getLogger("PIL").setLevel(logging.DEBUG)',
        _TOLD,
    ),
    Mutant(
        "the text of a failed report's exception told",
        "osteojax/predict/structured_report.py",
        "cannot be carried over ({type(error).__name__})",
        "cannot be carried over ({error})",
        (
            "tests/osteojax/predict/test_private_predictions.py::"
            "test_a_structured_report_that_cannot_be_written_tells_nothing",
        ),
    ),
    Mutant(
        "a named key stored in the folder of the work",
        "data_prep/workdir.py",
        'key or _secret(folder / "secret")',
        '(folder / "secret").write_bytes(key or _secret(folder / "secret")) and (folder / "secret").read_bytes()',
        (f"{_PRIVACY}::test_a_named_key_is_never_stored_and_a_killed_run_goes_on_with_it",),
    ),
    Mutant(
        "the cache of another key taken",
        "data_prep/image_task.py",
        "hmac.new(task.secret, ",
        'hmac.new(b"any", ',
        (f"{_PRIVACY}::test_another_key_takes_nothing_from_the_cache",),
    ),
    Mutant(
        "given ids kept where patients are hashed",
        "data_prep/patients.py",
        "        if known is not None and key is not None:\n",
        "        if known is None and key is not None and of_header is None:\n",
        (f"{_PRIVACY}::test_hashed_patients_are_the_same_under_one_key_and_others_under_another",),
    ),
    Mutant(
        "a number for a header's id where patients are hashed",
        "data_prep/patients.py",
        'f"{len(numbers) + 1:05d}" if key is None else of_header[:_HASHED]',
        'f"{len(numbers) + 1:05d}"',
        (f"{_PRIVACY}::test_hashed_patients_are_the_same_under_one_key_and_others_under_another",),
    ),
    Mutant(
        "variants of hashed ids not noticed",
        "data_prep/patients.py",
        "equal_after_folding(stands_for.get(patient, patient) for patient in known)",
        "equal_after_folding(known)",
        (f"{_PRIVACY}::test_hashed_patients_are_the_same_under_one_key_and_others_under_another",),
    ),
    Mutant(
        "hidden names in a warning",
        "data_prep/source.py",
        "such as {shown(spare[0])}",
        "such as {spare[0]}",
        (f"{_PRIVACY}::test_hidden_names_are_in_no_warning_reason_or_line",),
    ),
    Mutant(
        "a hidden folder's name in a reason",
        "data_prep/source.py",
        "class folder {shown(named)!r}",
        "class folder {named!r}",
        (f"{_PRIVACY}::test_hidden_names_are_in_no_warning_reason_or_line",),
    ),
    Mutant(
        "a mask that is not put on",
        "data_prep/preprocess.py",
        "    seen = masked(pixels, spec)\n",
        "    seen = pixels\n",
        (f"{_PRIVACY}::test_masked_writing_is_gone_in_preparation_and_prediction",),
    ),
    Mutant(
        "maps drawn over the writing",
        "osteojax/predict/explain.py",
        "overlay(seen, ",
        "overlay(radiograph.pixels, ",
        ("tests/osteojax/predict/test_private_predictions.py::test_a_map_is_drawn_over_the_masked_picture",),
    ),
    Mutant(
        "every fingerprint changed by a later choice",
        "data_prep/preprocess.py",
        "                del fields[name]",
        "                fields[name] = before",
        (
            "tests/data_prep/test_preprocess.py::"
            "test_what_earlier_releases_did_is_not_told_so_that_their_fingerprints_hold",
        ),
    ),
    Mutant(
        "what the header says of writing passed over",
        "data_prep/image_task.py",
        "if radiograph.annotated else ()",
        "if False else ()",
        (f"{_PRIVACY}::test_what_the_header_says_of_writing_is_honoured",),
    ),
    Mutant(
        "dark letters not seen",
        "data_prep/burned_in.py",
        "for kind in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):",
        "for kind in (cv2.MORPH_TOPHAT,):",
        (f"{_WRITING}::test_lines_of_letters_are_found",),
    ),
    Mutant(
        "upright lines not seen",
        "data_prep/burned_in.py",
        "        found += [line[[1, 0, 3, 2]] for line in _lines(regions[:, [1, 0, 3, 2, 4]], tone.T)]\n",
        "",
        (f"{_WRITING}::test_upright_lines_are_found",),
    ),
    Mutant(
        "side markers taken for lines",
        "data_prep/burned_in.py",
        "_FEWEST_LETTERS = 4\n",
        "_FEWEST_LETTERS = 1\n",
        (f"{_WRITING}::test_side_markers_and_pictures_without_writing_are_passed_over",),
    ),
    Mutant(
        "boxes of the reduced picture",
        "data_prep/burned_in.py",
        "int((top - margin) * scale)",
        "int(top - margin)",
        (f"{_WRITING}::test_large_pictures_are_reduced_and_boxes_are_not",),
    ),
    Mutant(
        "a range that one pixel stretches",
        "data_prep/burned_in.py",
        "(0.1, 99.9))",
        "(0, 100))",
        (f"{_WRITING}::test_one_hot_pixel_hides_nothing",),
    ),
)
