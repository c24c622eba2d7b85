"""Few references: settings that need more of them than there are follow their number, and say so."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unseen_diffusion.domains.base import pool_of
from unseen_diffusion.domains.split import split_pool
from unseen_diffusion.rejection import NoTolerances, Tolerances
from unseen_diffusion.scores.suite import MINIMUM
from unseen_diffusion.utils.errors import InputError

if TYPE_CHECKING:
    from unseen_diffusion.runs.settings import RunSettings

log = logging.getLogger(__name__)

DEFAULT_K = NoTolerances().k  # a k of one's own is refused where it is too large
OF_REFERENCES = ("held_out", "replay")  # comparison rows whose images are the references
NONE = {"_target_": "unseen_diffusion.rejection.NoTolerances", "name": "none"}


def follow_references(s: "RunSettings") -> "RunSettings":
    """The same settings for as few references as there are; logs every setting that changes.

    tolerances.k falls to N - 1, and below 3 references nothing can be judged. scores.neighbours falls to N - 1. Below 4
    references the rows of real and of replayed images are left out: their images are the references.

    Raises:
        InputError: fewer references than the method's own images need.
    """
    count = _references(s)
    return _scores(_tolerances(s, count), count)


def _references(s: "RunSettings") -> int:
    if s.domain.references is not None:
        return s.domain.references
    pool, d = pool_of(s.domain, s.spec.size, s.spec.channels), s.domain
    return len(split_pool(pool, d.references, d.validation, d.heldout, d.split_seed, d.draw, name=d.name)[0])


def _tolerances(s: "RunSettings", count: int) -> "RunSettings":
    tolerances, most = s.tolerances, count - 1
    if not tolerances.judges or tolerances.k <= most or tolerances.k != DEFAULT_K:
        return s
    if most < 2:
        log.warning("tolerances=none: %d references cannot be compared with others; every candidate is kept", count)
        return _with_tolerances(s, NoTolerances(), NONE)
    log.warning("tolerances.k=%d instead of %d, for %d references", most, tolerances.k, count)
    return _with_tolerances(s, tolerances.drawing(most), _drawing(s.tolerances_config, most))


def _drawing(config: Mapping[str, Any], k: int) -> dict[str, Any]:
    """A config of tolerances with another k, also inside those that it matches."""
    return {**config, "match": _drawing(config["match"], k)} if "match" in config else {**config, "k": k}


def _with_tolerances(s: "RunSettings", tolerances: Tolerances, config: dict[str, Any]) -> "RunSettings":
    plain = s.plain if s.method.tolerances else {**s.plain, "tolerances": config}
    return replace(s, tolerances=tolerances, tolerances_config=config, plain=plain)


def _scores(s: "RunSettings", count: int) -> "RunSettings":
    scores = s.scores
    rows = [row for row in scores.rows if row in OF_REFERENCES]
    if count >= scores.minimum or (s.method.generates and not rows):
        return s
    if count >= MINIMUM:
        log.warning("scores.neighbours=%d instead of %d, for %d references", count - 1, scores.neighbours, count)
        return _with_scores(s, neighbours=count - 1)
    if not s.method.generates:
        raise InputError(f"domain.references={count}: method={s.method.name} shows them; give {MINIMUM} or more")
    log.warning("scores.rows: without %s, for %d references", " and ".join(rows), count)
    return _with_scores(s, rows=[row for row in scores.rows if row not in OF_REFERENCES])


def _with_scores(s: "RunSettings", **changes: Any) -> "RunSettings":
    return replace(
        s, scores=replace(s.scores, **changes), plain={**s.plain, "scores": {**s.plain["scores"], **changes}}
    )
