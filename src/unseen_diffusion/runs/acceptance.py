"""What theory expects of a run's rejection: said before the inversion, and stored beside the measured acceptance."""

import logging
from dataclasses import asdict
from math import ceil, prod
from typing import Any

from unseen_diffusion.rejection.expected import FEW, Expectation, expected_acceptance
from unseen_diffusion.runs.run import Run

log = logging.getLogger(__name__)


def expectation(run: Run) -> Expectation | None:
    """The acceptance that a run's tolerances have for independent Gaussian latents; None where nothing is rejected."""
    s = run.settings
    if not s.method.draws_from_prior or not s.prior.random:
        return None
    references = len(run.split.tensors["references"])
    scale = run.model.schedule.state_std(s.t)
    return expected_acceptance(s.tolerances, prod(run.model.shape), references, scale)


def announce(run: Run) -> None:
    """Logs the expected acceptance; as a warning, with the settings to change, where few candidates will be kept."""
    expected = expectation(run)
    if expected is None:
        return
    s = run.settings
    text = f"tolerances={s.tolerances.name}: {expected.text}, for independent Gaussian latents"
    needed = ceil(s.samples / expected.share) if expected.share else None
    if expected.share >= FEW and needed is not None and needed <= s.rejection.max_proposals:
        log.info("%s", text)
        return
    proposals = f"{needed:,} proposals" if needed else "no number of proposals"
    remedy = f"widen the tolerances ({s.tolerances.widened_by})"
    if needed and needed > s.rejection.max_proposals:
        remedy += f", or raise rejection.max_proposals={s.rejection.max_proposals} above that"
    if s.rejection.route == "direct" and s.prior.spherical:
        remedy += "; rejection.route=exact_statistics makes proposals cheap"
    log.warning("%s: %s for %d samples; %s", text, proposals, s.samples, remedy)


def with_expectation(selection: dict[str, Any], run: Run) -> dict[str, Any]:
    """The record of a selection as results.json holds it, with the expected acceptance."""
    expected = expectation(run) if selection else None
    return selection if expected is None else {**selection, "expected": asdict(expected)}
