"""One line for each domain: what its feature extractor can see there, from the runs' own measurement."""

from collections.abc import Iterable

from unseen_diffusion.reports.result import RunResult
from unseen_diffusion.reports.rows import p_text, three_digits

CHANGES = {"blurred": "blurred by a pixel", "texture": "Gaussian texture"}


def yardstick_lines(results: Iterable[RunResult]) -> list[str]:
    """The distinct lines of all runs, in their order; none for runs that did not measure it."""
    return list(dict.fromkeys(line for result in results if (line := yardstick_line(result))))


def yardstick_line(result: RunResult) -> str:
    """What the extractor of a run can see in its domain; empty where the run did not measure it."""
    found = result.yardstick
    if not found:
        return ""
    target = {"heldout": "held-out", "validation": "validation"}[result.target]
    changes = found["changes"]
    shown = [f"{CHANGES[name]} {_kid(one['kid'])} (p {p_text(one['p'])})" for name, one in changes.items()]
    missed = [CHANGES[name] for name, one in changes.items() if one["p"] > found["level"]]
    verdict = "this extractor tells both from real images."
    if missed:
        verdict = f"{' and '.join(missed)} not told from real images: this extractor cannot judge this domain."
    return (
        f"{result.features} on {result.domain}, KID x1000 of {found['n']} {target} images against the others: "
        f"real {_kid(found['real'])}, {', '.join(shown)}; {verdict}"
    )


def _kid(value: float) -> str:
    return three_digits(1000 * value)
