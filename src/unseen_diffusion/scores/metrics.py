"""Every score of the results table: its titles, units, which end is better, and the question that it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """How one score is shown.

    Attributes:
        title: of its column, short enough for a terminal.
        label: where there is room.
        better: ``lower``, ``higher``, or empty where neither end is better.
        kind: ``kid`` (shown in thousandths), ``share`` (in per cent) or ``number``.
        question: what it answers.
    """

    title: str
    label: str
    better: str
    kind: str
    question: str


NEAR, NEW, DIVERSE, INSIDE, COST = "near the domain?", "new?", "diverse?", "in the domain?", "at what cost?"
# Every score of a row, in the order of tables, reports and dashboards.
METRICS = {
    "kid_h": Metric("KID-H x1000", "KID-H x1000", "lower", "kid", NEAR),
    "fid_h": Metric("FID-H", "FID-H", "lower", "number", NEAR),
    "kid_r": Metric("KID-R x1000", "KID-R x1000", "", "kid", NEW),
    "fid_r": Metric("FID-R", "FID-R", "", "number", NEW),
    "copy_rate": Metric("copies", "copies", "lower", "share", NEW),
    "precision": Metric("prec", "precision", "higher", "share", INSIDE),
    "recall": Metric("rec", "recall", "higher", "share", DIVERSE),
    "density": Metric("dens", "density", "higher", "number", INSIDE),
    "coverage": Metric("cov", "coverage", "higher", "share", DIVERSE),
    "vendi": Metric("Vendi", "Vendi / H", "", "number", DIVERSE),
    "target_classifier": Metric("cls", "target, classifier", "higher", "share", INSIDE),
    "target_conformal": Metric("conf", "target, conformal", "higher", "share", INSIDE),
    "acceptance": Metric("kept", "kept", "", "share", COST),
    "evaluations_per_image": Metric("evals", "evaluations / image", "lower", "number", COST),
    "seconds_per_image": Metric("s", "s / image", "lower", "number", COST),
    "psnr": Metric("dB", "PSNR, dB", "higher", "number", NEAR),
}
CLASSIFIER = "target_classifier"


def agreed(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """One row for the same images scored in two runs: without the classifier's share where the runs differ in it.

    It depends on the base model's own samples, the rest of a comparison row only on its images.
    """
    if row.get(CLASSIFIER) == other.get(CLASSIFIER):
        return dict(row)
    return {name: value for name, value in row.items() if not name.startswith(CLASSIFIER)}
