"""Settings as conf/ gives them, with changes."""

from typing import Any

import yaml

from support import ROOT
from unseen_diffusion.utils.configs import build


def values_of(group: str, name: str) -> dict[str, Any]:
    """The values of an option, with those of the options that it starts from."""
    values = yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8"))
    below: dict[str, Any] = {}
    for other in values.pop("defaults", []):
        below |= values_of(group, other) if isinstance(other, str) and other != "_self_" else {}
    return below | values


def option(group: str, name: str, /, **changes: Any) -> Any:
    """What an option of a config group builds."""
    return build(values_of(group, name) | changes, group)
