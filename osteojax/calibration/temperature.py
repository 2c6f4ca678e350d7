"""Temperature scaling: probabilities that mean what they say (Guo et al. 2017)."""

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

# Beyond these the fit says that the logits, or the validation set, are no use.
_LEAST, _MOST = 0.05, 20.0


def fit_temperature(logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> float:
    """The temperature that, dividing the logits, makes the labels likeliest; 0.05 to 20."""

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=-1)
        return -float(scaled[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(
        loss, bounds=(np.log(_LEAST), np.log(_MOST)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))
