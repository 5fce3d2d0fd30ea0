"""Calibration of multiple-choice answers: what an arm gives its answer against how often that answer is right."""

from typing import Any

import numpy as np

from reports.load import Source
from reports.stats.cells import Floats

BINS = 10


def calibration_json(source: Source) -> dict[str, dict[str, Any]]:
    """Suite -> arm -> expected calibration error and its bins, for suites whose items tell a confidence."""
    found: dict[str, dict[str, Any]] = {}
    for arm in source.arms:
        for frame in source.frames.get(arm, []):
            if frame.confidence is not None and frame.right is not None and len(frame.confidence):
                found.setdefault(frame.suite, {})[arm] = bins_json(frame.confidence, frame.right)
    return found


def bins_json(confidence: Floats, right: Floats, bins: int = BINS) -> dict[str, Any]:
    """Equal bins of (0, 1] with their items' mean confidence and accuracy, and the expected calibration error.

    The error is the mean over items of |accuracy - confidence| of their bin (Guo et al. 2017, eq. 3). Empty bins are
    left out.
    """
    at = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    n = np.bincount(at, minlength=bins)
    sure, hits = np.bincount(at, confidence, minlength=bins), np.bincount(at, right, minlength=bins)
    return {
        "n": len(confidence),
        "error": float(np.abs(hits - sure).sum() / len(confidence)),
        "bins": [
            {
                "low": one / bins,
                "high": (one + 1) / bins,
                "n": int(n[one]),
                "confidence": float(sure[one] / n[one]),
                "accuracy": float(hits[one] / n[one]),
            }
            for one in np.flatnonzero(n)
        ],
    }
