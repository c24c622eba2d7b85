"""Saves and reads an unseen domain: JSON, safetensors and a card, without weights of the base model."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unseen_diffusion.models.options import Options
from unseen_diffusion.pipeline.card import card
from unseen_diffusion.pipeline.unseen_domain import ImageFacts, UnseenDomain
from unseen_diffusion.priors import is_restorable, restore
from unseen_diffusion.rejection import Band, FixedBands, NoTolerances, Projection, RandomControl, Tolerances
from unseen_diffusion.solvers.settings import restore_settings
from unseen_diffusion.utils.digests import file_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path, read_json, write_json
from unseen_diffusion.utils.tensors import write_tensors

FORMAT = 1
DOMAIN, TENSORS, CARD = "unseen_domain.json", "prior.safetensors", "README.md"

# How a fitted prior's tensor can be computed from the stored references, so that it is not stored itself.
DERIVED: dict[str, Callable[[Tensor, Mapping[str, Tensor]], Tensor]] = {
    "references": lambda references, _: references,
    "references - mean": lambda references, tensors: references.double() - tensors["mean"],
}


@dataclass(frozen=True)
class Base:
    """The base model that a domain belongs to.

    Attributes:
        path: hub id, local folder, or ``embedded:NAME``.
        revision: commit or branch of a hub id.
        fingerprint: of the loaded model.
        options: other arguments that the model was loaded with (``models.options.Options``).
    """

    path: str
    revision: str | None
    fingerprint: str
    options: Mapping[str, Any]


def write_domain(folder: Path, domain: UnseenDomain, base: Base, include_references: bool) -> None:
    """Writes prior.safetensors, README.md and, last, unseen_domain.json; overwrites an earlier domain.

    Raises:
        InputError: the folder contains something else, or the prior cannot be stored (without the references).
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / DOMAIN).is_file()):
        raise InputError(f"{folder}: contains something other than an unseen domain; give a new folder")
    tensors, derived = _tensors(domain, include_references)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / TENSORS, tensors)
    facts = {
        "format": FORMAT,
        "base": asdict(base),
        "t": domain.t,
        "solver": asdict(domain.solver),
        "prior": {"name": domain.prior_name, "kind": type(domain.prior).__name__, "derived": derived},
        "tolerances": domain.tolerances.stored(),
        "images": asdict(domain.images),
        "tensors": {"file": TENSORS, "sha256": file_digest(folder / TENSORS), "references": "references" in tensors},
    }
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(card(folder.name, facts), encoding="utf-8")
    write_json(folder / DOMAIN, facts)


def _tensors(domain: UnseenDomain, include_references: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store, and the prior's tensors that can be computed from the stored references."""
    prior = domain.prior.tensors()
    if not is_restorable(domain.prior):
        kind = type(domain.prior).__name__
        raise InputError(
            f"prior={domain.prior_name}: {kind} is no prior of this package, so a saved domain cannot hold it; "
            "fit one of this package"
        )
    if domain.references is None:
        if include_references:
            raise InputError(
                "include_references=True: this domain was saved without them; pass include_references=False, or call "
                "fit again"
            )
        derived = {}
    else:
        derived = {name: rule for name, tensor in prior.items() if (rule := _rule(tensor, domain.references, prior))}
    if (derived or domain.prior.contains_references(domain.images.count)) and not include_references:
        raise InputError(
            f"include_references=False: prior={domain.prior_name} holds the references' latents; fit another, "
            "such as Stationary() or LowRank(rank=10)"
        )
    stored = {f"prior.{name}": tensor for name, tensor in prior.items() if name not in derived}
    if include_references and domain.references is not None:
        stored["references"] = domain.references
    # A copy each: safetensors refuses tensors that share memory.
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in stored.items()}, derived


def _rule(tensor: Tensor, references: Tensor, prior: Mapping[str, Tensor]) -> str | None:
    """The entry of ``DERIVED`` that computes a tensor bit by bit, or None."""
    if tensor.shape != references.shape:
        return None
    for rule, make in DERIVED.items():
        computed = make(references, prior) if rule == "references" or "mean" in prior else None
        if computed is not None and computed.dtype == tensor.dtype and torch.equal(computed, tensor):
            return rule
    return None


def read_domain(folder: Path) -> tuple[Base, UnseenDomain]:
    """Reads what ``write_domain`` wrote; only JSON and safetensors, and only classes of this package.

    Raises:
        InputError: files that are missing, damaged, or of another format.
    """
    facts = read_json(folder / DOMAIN)
    version = facts.get("format") if isinstance(facts, dict) else None
    if version != FORMAT:
        raise InputError(
            f"{folder / DOMAIN}: format {version}, this version reads {FORMAT}; install a matching version"
        )
    path = folder / TENSORS
    if not path.is_file():
        raise InputError(f"{folder}: no {TENSORS} beside {DOMAIN}; download it again")
    try:
        if file_digest(path) != facts["tensors"]["sha256"]:
            raise InputError(f"{path}: not the file that {DOMAIN} names; download both again")
        base = _base(facts["base"])
        return base, _domain(facts, load_file(path))
    except (KeyError, TypeError, AttributeError, ValueError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / DOMAIN}: damaged ({type(error).__name__}: {error}); download it again") from error


def _base(facts: Any) -> Base:
    """The base model that a domain belongs to.

    Raises:
        ValueError: options that no model has.
    """
    base = Base(**facts)
    try:
        Options(**base.options)
    except InputError as error:
        raise ValueError(str(error)) from error
    return base


def _domain(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> UnseenDomain:
    references = tensors.get("references")
    prior = {name.removeprefix("prior."): tensor for name, tensor in tensors.items() if name != "references"}
    derived = facts["prior"]["derived"]
    if derived and references is None:
        raise KeyError("references")
    prior |= {name: DERIVED[rule](references, prior) for name, rule in derived.items() if references is not None}
    return UnseenDomain(
        facts["t"],
        restore_settings(facts["solver"]),
        restore(facts["prior"]["kind"], prior),
        facts["prior"]["name"],
        _tolerances_from_json(facts["tolerances"]),
        references,
        ImageFacts(**facts["images"]),
    )


def _tolerances_from_json(stored: Mapping[str, Any] | None) -> Tolerances:
    """Rebuilds tolerances from what their ``stored`` returned."""
    if stored is None:
        return NoTolerances()
    name, bands = stored["name"], {one: Band(low, high) for one, (low, high) in stored["bands"].items()}
    fixed = FixedBands(intervals=bands, name=stored.get("match", name), k=stored["k"])
    if "iterations" in stored:
        return Projection(match=fixed, iterations=stored["iterations"], name=name)
    return RandomControl(match=fixed, name=name) if stored["control"] else fixed
