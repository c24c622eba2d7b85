"""The three ways in which the method fails, recognised by a run's own numbers, each with the setting to change.

They are those of the summary of arXiv 2310.09213: low reconstruction quality, samples that look like the training
domain, high rejection.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Any

from unseen_diffusion.reports.result import AnyResult, RunResult, read_results
from unseen_diffusion.reports.rows import is_missing, run_name
from unseen_diffusion.scores.metrics import CLASSIFIER

LOW_PSNR = 20.0  # dB; the default of bandwidth.minimum_psnr: below it references are not recognised
HALF = 0.5  # share of samples in the target domain below which most of them are not in it
HIGH_REJECTION = 0.05  # share kept: below it 20 candidates are drawn for each sample
MOST = 10  # lines below a table


@dataclass(frozen=True)
class Signature:
    """One sign of failure.

    Attributes:
        name: which of the three.
        evidence: the run's own numbers.
        remedy: the settings to change.
    """

    name: str
    evidence: str
    remedy: str

    @property
    def text(self) -> str:
        """All of it, in one line."""
        return f"{self.name}: {self.evidence}; {self.remedy}"


def signatures(result: RunResult) -> list[Signature]:
    """The signs of failure of a run; none for methods that draw from no prior."""
    if not result.settings.get("prior"):
        return []
    return [*_reconstruction(result), *_training_domain(result), *_rejection(result)]


def _reconstruction(result: RunResult) -> Iterator[Signature]:
    """PSNR of references inverted and denoised, without noise (the inversion's fault) and at the run's eta."""
    clean = _number(result.reconstruction.get("eta0", {}).get("psnr"))
    eta = result.settings.get("eta") or 0.0
    noisy = _number(result.reconstruction.get(f"eta{eta:g}", {}).get("psnr"))
    if clean is not None and clean < LOW_PSNR:
        remedy = "change the inversion: raise solver.steps, set solver.clean_end=half, or lower mixing.t"
        yield Signature("low reconstruction quality", f"PSNR {clean:.1f} dB at eta 0, below {LOW_PSNR:g}", remedy)
    elif noisy is not None and noisy < LOW_PSNR:
        remedy = "lower bandwidth.eta, or let bandwidth=search choose it"
        yield Signature("low reconstruction quality", f"PSNR {noisy:.1f} dB at eta {eta:g}, below {LOW_PSNR:g}", remedy)


def _training_domain(result: RunResult) -> Iterator[Signature]:
    """The share of samples that the classifier takes for the target domain, against the base model's own samples."""
    row = result.generated
    share, high = _number(row.get(CLASSIFIER)), _number(row.get(f"{CLASSIFIER}_high"))
    if share is not None and max(share, high if high is not None else share) < HALF:
        evidence = (
            f"a classifier takes {max(share, 0):.0%} of them for {result.domain}, the others for the base model's own"
        )
        remedy = "change mixing.t (mixing=search), or narrow the tolerances (tolerances.coverage)"
        yield Signature("samples look like the training domain", evidence, remedy)


def _rejection(result: RunResult) -> Iterator[Signature]:
    """The share of candidates that were kept."""
    kept = result.selection.get("acceptance") or {}
    share, high = _number(kept.get("share")), _number(kept.get("high"))
    if share is None or max(share, high if high is not None else share) >= HIGH_REJECTION:
        return
    evidence = f"{100 * share:.2g}% of {result.selection.get('proposals')} candidates kept" if share else "none kept"
    expected = _number((result.selection.get("expected") or {}).get("share"))
    if expected is not None:
        evidence += f", {100 * expected:.2g}% expected by theory"
    remedy = "widen the tolerances (tolerances.coverage), or use tolerances=calibrated"
    yield Signature("high rejection", evidence, remedy)


def signature_lines(results: Sequence[AnyResult]) -> list[str]:
    """One line for each sign of failure of several runs, with the run's name."""
    found = []
    for result in results:
        settings: Mapping[str, Any] = result.settings
        found += [f"{result.domain}, {run_name(settings)}: {one.text}" for one in signatures(result)]
    return list(dict.fromkeys(found))


def print_signatures(paths: Sequence[Path | str]) -> None:
    """Prints the signs of failure of the runs below some folders; nothing without any."""
    lines = signature_lines(read_results(paths, RunResult))
    for line in lines[:MOST]:
        print(fill(f"sign of failure: {line}", get_terminal_size((80, 24)).columns, subsequent_indent="  "))
    if len(lines) > MOST:
        print(f"and {len(lines) - MOST} more signs of failure (unseen report lists all)")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not is_missing(value) else None
