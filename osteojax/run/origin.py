"""Where the parameters of a run came from, in words."""

from collections.abc import Mapping
from typing import Any


def told(origin: Mapping[str, Any]) -> str:
    """A checkpoint's `origin` in words, such as "resnet18 from random weights".

    Of a run's weights it says which, of what data, and what could not be excluded or was allowed.
    """
    architecture, init = origin["architecture"], origin["init"]
    if init != "run":
        return f"{architecture} from {init} weights"
    of = origin["weights"]
    words = [
        f"{architecture} from the weights of the run {of['source']} (learned: {of['learned']}; step {of['step']}, seed "
        f"{of['seed']}, dataset {of['dataset_fingerprint'][:12]}, sha256 {of['sha256'][:12]})"
    ]
    overlap = of["overlap"]
    if not overlap["checked"]:
        words.append("whether those saw images of this run's validation or test was not checked")
    elif overlap["allowed"]:
        words.append(
            f"MARKED: those learned from {overlap['shared']['patient_id']} patients and {overlap['shared']['sha256']} "
            "images of this run's validation or test, which was allowed"
        )
    return "; ".join(words)


def learned_before(origin: Mapping[str, Any]) -> str:
    """What the network had learned before this run, for a sentence about the method."""
    return {
        "imagenet": "transfer learning from natural images",
        "run": "transfer learning from an earlier run on radiographs",
        "random": "learned from nothing else",
    }[origin["init"]]
