"""The base models and domains that conf/ names: ``unseen models`` and ``unseen domains``.

What a config's values do not say is read from the comments at its top: "3x256x256", "94 M", "194 GMAC per evaluation",
"Address: ...", "Fetch: ...", "Licence: ...", "Trained on: ...".
"""

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from unseen_diffusion.sweeps.options import files
from unseen_diffusion.utils.errors import InputError

REQUIRED = "???"


@dataclass(frozen=True)
class Entry:
    """One option of a group.

    Attributes:
        name: the option.
        comments: the lines of comments at the top of its file.
        values: its values, with those of the options that it starts from.
    """

    name: str
    comments: tuple[str, ...]
    values: dict[str, Any]

    @property
    def title(self) -> str:
        """The first comment."""
        return self.comments[0] if self.comments else ""

    def note(self, key: str) -> str:
        """The rest of the comment that begins with ``key:``; empty without one."""
        found = (line.removeprefix(f"{key}:").strip() for line in self.comments if line.startswith(f"{key}:"))
        return next(found, "")

    def number(self, pattern: str) -> float | None:
        """The first number that a pattern finds in the comments."""
        found = re.search(pattern, " ".join(self.comments))
        return float(found[1]) if found else None


def entries(group: str) -> list[Entry]:
    """Every option of a group, in order.

    Raises:
        InputError: no such group.
    """
    return [Entry(name, _comments(path), _values(group, path)) for name, path in files(group).items()]


def entry(group: str, name: str) -> Entry | None:
    """One option of a group, or None."""
    path = files(group).get(name)
    return None if path is None else Entry(name, _comments(path), _values(group, path))


def _comments(path: Path) -> tuple[str, ...]:
    """The comments before the first value, without directives for Hydra."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            found.append(line.removeprefix("#").strip())
    return tuple(found)


def _values(group: str, path: Path) -> dict[str, Any]:
    own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    merged: dict[str, Any] = {}
    for base in own.pop("defaults", []):
        if isinstance(base, str) and base in files(group) and base != path.stem:
            merged |= _values(group, files(group)[base])
    return merged | own


def models_command(names: list[str]) -> int:
    """Prints every base model, or those named: where it is, how to get it, its size and licence.

    Raises:
        InputError: an unknown name.
    """
    for one in _chosen("model", names):
        lines = [one.title, f"{_state(one)}"]
        lines += [f"{key.lower()}: {one.note(key)}" for key in ("Address", "Licence") if one.note(key)]
        _print(one.name, lines)
    return 0


def domains_command(names: list[str]) -> int:
    """Prints every domain, or those named: where its images come from, how it is split, and its licence.

    Raises:
        InputError: an unknown name.
    """
    for one in _chosen("domain", names):
        values = one.values
        place = ""
        if values.get("id") or values.get("hub"):
            place = f"hub: {values.get('id') or values.get('hub')}, revision {values.get('revision') or 'newest'}"
        elif "path" in values:
            place = f"from {_place(values['path'], 'domain.path')}"
        _print(
            one.name, [one.title, *filter(None, (place, f"split: {_split(values)}", f"licence: {_licence(values)}"))]
        )
    return 0


def _chosen(group: str, names: list[str]) -> list[Entry]:
    known = {one.name: one for one in entries(group)}
    for name in names:
        if name not in known:
            raise InputError(f"{name}: no such {group}; choose among {', '.join(known)}")
    return [known[name] for name in names] or list(known.values())


def _print(name: str, lines: list[str]) -> None:
    print(name)
    for line in lines:
        print(f"  {line}")


def _split(values: dict[str, Any]) -> str:
    parts = (("references", "references"), ("validation", "validation"), ("heldout", "held-out"))
    return ", ".join(f"{_size(values.get(key))} {label}" for key, label in parts)


def _licence(values: dict[str, Any]) -> str:
    """The terms of use, of the config or of the class that it names."""
    if "licence" in values:
        return str(values["licence"])
    module, _, name = values["_target_"].rpartition(".")
    return str(getattr(import_module(module), name).licence)


def _size(value: object) -> str:
    return {None: "a share of", REQUIRED: "a required number of"}.get(value, str(value))  # type: ignore[call-overload]


def _place(path: object, key: str) -> str:
    if path == REQUIRED:
        return f"a folder or file of yours ({key})"
    there = Path(str(path)).expanduser().exists()
    return f"{path} ({'here' if there else 'not here yet'})"


def _state(one: Entry) -> str:
    """Whether a model is here, else how to get it."""
    path = one.values.get("path")
    if path is None:
        return "here: computed, without weights"
    if path == REQUIRED:
        return "a folder or hub id of yours (model.path)"
    if str(path).startswith("embedded:"):
        return "here: part of the package"
    if str(path).startswith((".", "/", "~")):
        if (Path(path).expanduser() / "model_index.json").is_file():
            return f"here: {path}"
        return f"to fetch: {one.note('Fetch') or f'make the folder {path}'}"
    if _is_cached(str(path), one.values.get("revision")):
        return "here: in the cache of the hub"
    return f"to fetch: the first run downloads {path} from the hub, or once online: hf download {path}"


def _is_cached(path: str, revision: str | None) -> bool:
    """Whether the hub's cache has a repository's index."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, "model_index.json", revision=revision)
    return isinstance(found, str)
