"""Hydra's messages about a bad override as one line, with the nearest known name."""

import re
from difflib import get_close_matches
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from unseen_diffusion.sweeps.options import GROUPS, config_folder, own_folder

PLUGINS = {  # the extra that pip installs for an option
    "launcher/joblib": "joblib",
    "launcher/ray": "ray",
    "launcher/submitit_local": "slurm",
    "launcher/submitit_slurm": "slurm",
    "sweeper/optuna": "optuna",
}


def explain(message: str, name: str) -> str:
    """One line for a message of Hydra about conf/``name``.yaml, with the remedy where it is known."""
    text = " ".join(message.split())
    if key := re.search(r"Could not override '([^']+)'", text):
        return f"{key[1]}: no such key{_nearest(key[1], name)}; unseen {name} --cfg job prints them all"
    if option := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        if extra := PLUGINS.get(f"{option[1].removeprefix('hydra/')}/{option[2]}"):
            return f"{option[1]}={option[2]}: not installed; pip install 'unseen-diffusion[{extra}]'"
        folders = [folder / option[1] for folder in (own_folder(), config_folder()) if folder]
        known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
        return f"{option[1]}={option[2]}: no such option; choose one of {', '.join(known)}"
    if group := re.search(r"Could not override '?(\S+?)'?\. No match in the defaults list", text):
        return f"{group[1]}: no such group{_nearest(group[1], name)}; unseen {name} --help lists them"
    return text


def _nearest(key: str, name: str) -> str:
    """A suggestion among group names and the keys of the default config of conf/``name``.yaml."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        plain = OmegaConf.to_container(compose(name), resolve=False)
    names = [*GROUPS, *_keys(plain, "")]
    close = get_close_matches(key, names, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _keys(value: Any, prefix: str) -> list[str]:
    """Dotted keys of nested mappings."""
    if not isinstance(value, dict):
        return []
    here = [f"{prefix}{key}" for key in value]
    return here + [name for key, inner in value.items() for name in _keys(inner, f"{prefix}{key}.")]
