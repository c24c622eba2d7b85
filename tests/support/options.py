"""Settings as conf/ gives them, with changes."""

from typing import Any

import yaml

from support import ROOT
from unseen_diffusion.utils.configs import build


def option(group: str, name: str, /, **changes: Any) -> Any:
    """What an option of a config group builds."""
    values = yaml.safe_load((ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return build(values | changes, group)
