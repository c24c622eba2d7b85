"""Every score of the results table: its titles, units, which end is better, and the question that it answers."""

from dataclasses import dataclass

from unseen_diffusion.utils.renamed import new_names


@dataclass(frozen=True)
class Metric:
    """How one score is shown.

    Attributes:
        title: the column's head, short enough for a terminal.
        label: the longer name, for wide tables.
        better: ``lower``, ``higher``, or empty where neither end is better.
        kind: ``kid`` (shown in thousandths), ``share`` (in per cent), ``p`` (a p-value) or ``number``.
        question: the question that the score answers.
        needs_features: whether its value depends on the feature extractor.
        in_tables: whether printed tables and dashboards show it; CSV files, reports and results.json have every score.
        most: upper end of a share: 1, or more for a share over that of real images.
    """

    title: str
    label: str
    better: str
    kind: str
    question: str
    needs_features: bool = True
    in_tables: bool = True
    most: float = 1.0


NEAR, NEW, DIVERSE, INSIDE, COST = "near the domain?", "new?", "diverse?", "in the domain?", "at what cost?"
# Every score of a row, in the order of tables, reports and dashboards.
METRICS = {
    "kid_h": Metric("KID-H x1000", "KID-H x1000", "lower", "kid", NEAR),
    "fid_h": Metric("FID-H", "FID-H", "lower", "number", NEAR),
    "fid_floor": Metric("FID floor", "FID-H of as many real images", "", "number", NEAR),
    "kid_r": Metric("KID-R x1000", "KID-R x1000", "", "kid", NEW),
    "fid_r": Metric("FID-R", "FID-R", "", "number", NEW),
    "copy_rate": Metric("copies", "copies", "lower", "share", NEW, needs_features=False),
    "novelty": Metric("new", "distance to R / H's", "", "number", NEW, needs_features=False),
    "novelty_features": Metric("new f", "distance to R / H's, features", "", "number", NEW, in_tables=False),
    "symmetric_copies": Metric(
        "sym", "copies, turned or mirrored", "lower", "share", NEW, needs_features=False, in_tables=False
    ),
    "patch_copies": Metric("patch", "copied patches", "lower", "share", NEW, needs_features=False, in_tables=False),
    "shifted_patch_copies": Metric(
        "shift", "copied patches, shifted", "lower", "share", NEW, needs_features=False, in_tables=False
    ),
    "precision": Metric("prec", "precision", "higher", "share", INSIDE),
    "recall": Metric("rec", "recall", "higher", "share", DIVERSE),
    "density": Metric("dens", "density", "higher", "number", INSIDE),
    "coverage": Metric("cov", "coverage", "higher", "share", DIVERSE),
    "vendi": Metric("Vendi", "Vendi / H", "", "number", DIVERSE),
    "target_classifier": Metric("cls", "target, classifier", "higher", "share", INSIDE),
    "target_conformal": Metric("conf", "target, conformal", "higher", "share", INSIDE, most=1 / 0.95),
    "acceptance": Metric("kept", "kept", "", "share", COST, needs_features=False),
    "evaluations_per_image": Metric("NFE", "NFE / image", "lower", "number", COST, needs_features=False),
    "seconds_per_image": Metric("s", "s / image", "lower", "number", COST, needs_features=False),
    "psnr": Metric("dB", "PSNR, dB", "higher", "number", NEAR, needs_features=False),
}
P_VALUE = "kid_h_p"  # of the hypothesis that generated and held-out images have one distribution
CLASSIFIER = "target_classifier"


__getattr__ = new_names(__name__)
