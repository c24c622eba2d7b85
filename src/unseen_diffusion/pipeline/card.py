"""The card (README.md) of a saved unseen domain: its facts, what it reveals of the images, and how to use it."""

from collections.abc import Mapping
from typing import Any

REVEALING = (
    "**It reveals the images it was fitted to.** The reference images' latents are among the stored tensors, and the "
    "base model turns them back into the images, nearly unchanged. Whoever may have these files may have the images."
)
QUIETER = (
    "The stored tensors are the prior's parameters, without the reference images' latents. Candidates cannot be judged "
    "without those latents: call with `tolerances=NoTolerances()`, unless the tolerances are none."
)


def card(title: str, facts: Mapping[str, Any]) -> str:
    """The text of README.md, with the hub's front matter.

    Args:
        title: its heading.
        facts: the content of unseen_domain.json.
    """
    base, images, solver = facts["base"], facts["images"], facts["solver"]
    rows = {
        "base model": f"`{base['path']}`" + (f" at `{base['revision']}`" if base["revision"] else ""),
        "its fingerprint": f"`{base['fingerprint'][:16]}`, checked when loading",
        "fitted to": f"{images['count']} images of {images['channels']}x{images['size']}x{images['size']}",
        "licence of the images": images["licence"],
        "mixing step t": f"{facts['t']:g}",
        "solver": f"{solver['name']}, grid {solver['grid']}, {solver['steps']} evaluations per direction",
        "prior": facts["prior"]["name"],
        "tolerances": _tolerances(facts["tolerances"]),
    }
    lines = [
        *_front_matter(base["path"]),
        f"# {title}",
        "",
        "An unseen domain of a frozen diffusion model ([arXiv 2310.09213](https://arxiv.org/abs/2310.09213)): a prior",
        "over the base model's latents. It has no weights of the base model, which is loaded by its name.",
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in rows.items()),
        "",
        "```python",
        "from unseen_diffusion import UnseenDomainPipeline",
        "",
        'pipe = UnseenDomainPipeline.from_pretrained("PATH OR HUB ID OF THIS FOLDER")',
        "images = pipe(num_images=8, eta=0.2, generator=0).images",
        "```",
        "",
        REVEALING if facts["tensors"]["references"] else QUIETER,
        "",
        "The base model's own licence holds for what it generates.",
        "",
    ]
    return "\n".join(lines)


def _front_matter(base: str) -> list[str]:
    """The hub's metadata; a base model is named only if it has a hub id."""
    known = [f"base_model: {base}"] if base.count("/") == 1 and not base.startswith(("/", "~", ".")) else []
    return ["---", *known, "tags: [unseen-diffusion, unconditional-image-generation]", "---", ""]


def _tolerances(stored: Mapping[str, Any] | None) -> str:
    if stored is None:
        return "none"
    bands = ", ".join(f"{name} {low:.4g} to {high:.4g}" for name, (low, high) in stored["bands"].items())
    return f"{stored['name']}: {bands}"
