"""Damaged files: each entry names a file and how it is changed. More kinds (images, weights) are more ``Family``s.

A run or sweep whose file is damaged is skipped with one warning line that names the file; the runs beside it are shown.
A model whose JSON is damaged is refused in one line before a run starts.
"""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

Edit = Callable[[Path], None]
REMOVED = object()
DEEP = "[" * 100_000


def text(content: str | bytes) -> Edit:
    """Replaces the whole file."""
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content) and None


def cut(share: float) -> Edit:
    """Keeps the first part of the file."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)]) and None


def put(key: str, value: Any) -> Edit:
    """Sets, or removes, one dotted key of a JSON file."""

    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
        place = content
        for part in parents:
            place = place[part]
        if value is REMOVED:
            del place[last]
        else:
            place[last] = deepcopy(value)
        path.write_text(json.dumps(content))

    return edit


# Changes that no JSON file of ours survives.
WHOLE = {
    "empty": text(""),
    "cut to a half": cut(0.5),
    "cut by a little": cut(0.98),
    "not UTF-8": text(b"\xff\xfe\x00{}"),
    "null": text("null"),
    "a list": text("[1, 2]"),
    "a number": text("3"),
    "an empty object": text("{}"),
    "nested without end": text(DEEP),
    "HTML": text("<html>busy</html>"),
}
NESTED: Any = [["deep", {"er": [None]}]]
RESULTS = {f"{key}={value!r}": put(key, value) for key, value in (
    ("schema", 1), ("schema", None), ("settings", []), ("settings", NESTED), ("settings.domain", NESTED),
    ("settings.t", "high"), ("settings.t", NESTED), ("settings.seed", {"a": 1}), ("rows", {}), ("rows", "rows"),
    ("rows", [3]),
    ("rows", [{}]), ("rows", NESTED), ("rows.0.row", "nosuch"), ("rows.0.row", 3), ("rows.0.kid_h", "0.3"),
    ("rows.0.kid_h_high", "x"),
    ("rows.0.n", "many"), ("rows.0.n", REMOVED), ("rows.0.precision", NESTED), ("rows.1.row", REMOVED), ("config", []),
    ("config", REMOVED), ("metrics", {"kid_h": 3}), ("metrics", {"new": {"nosuch": 1}}), ("details", [1]),
    ("details", NESTED),
    ("details.generated", 3), ("evaluations", [1]), ("evaluations.total", "many"), ("seconds", "3"), ("artefacts", {}),
    ("selection", [1]), ("geometry", 3), ("reconstruction", NESTED), ("images", "x"),
)}  # fmt: skip
MANIFEST = {f"{key}={value!r}": put(key, value) for key, value in (
    ("schema", 0), ("schema", REMOVED), ("points", REMOVED), ("points", {}), ("points", []), ("points", [3]),
    ("points", NESTED),
    ("points.0.config", []), ("points.0.config", REMOVED), ("points.0.overrides", "seed=1"),
    ("points.0.overrides", [3]),
    ("command", "run"), ("command", None), ("cwd", 3), ("trials", "many"), ("trials", -1), ("multirun", "maybe"),
    ("made", None), ("multirun", None),
)}  # fmt: skip
STATUS = {f"{key}={value!r}": put(key, value) for key, value in (
    ("state", "flying"), ("state", None), ("state", []), ("state", REMOVED), ("started", "yesterday"), ("started", 3),
    ("heartbeat", "2024-13-45"), ("heartbeat", NESTED), ("ended", "x"), ("pid", "x"), ("pid", NESTED),
    ("attempt", None),
    ("born", "x"), ("activity", 3), ("error", [1]),
)}  # fmt: skip
MODEL = {
    "model_index.json": {f"{key}={value!r}": put(key, value) for key, value in (
        ("unet", 3), ("unet", "UNet2DModel"), ("unet", []), ("unet", ["diffusers"]), ("unet", ["diffusers", NESTED]),
        ("unet", ["os", "system"]), ("unet", REMOVED), ("unet", {"a": 1}), ("unet", [["diffusers"], ["UNet2DModel"]]),
        ("vae", ["diffusers", "nosuch"]), ("vae", [3, 3]),
    )},
    "unet/config.json": {f"{key}={value!r}": put(key, value) for key, value in (
        ("sample_size", "8"), ("sample_size", NESTED), ("sample_size", 0), ("sample_size", -8), ("sample_size", None),
        ("sample_size", [8, 16]), ("sample_size", 8.5), ("sample_size", True), ("in_channels", "3"),
        ("in_channels", NESTED),
        ("in_channels", 0), ("in_channels", -3), ("out_channels", 5), ("out_channels", NESTED), ("_class_name", NESTED),
        ("_class_name", "nosuch"), ("_class_name", 3), ("num_class_embeds", "many"), ("num_class_embeds", -1),
        ("class_embed_type", "x"),
    )},
    "scheduler/scheduler_config.json": {f"{key}={value!r}": put(key, value) for key, value in (
        ("_class_name", "nosuch"), ("_class_name", NESTED), ("_class_name", None), ("num_train_timesteps", "many"),
        ("num_train_timesteps", 0), ("num_train_timesteps", -5), ("num_train_timesteps", 1),
        ("num_train_timesteps", NESTED),
        ("beta_start", "x"), ("beta_start", -1), ("beta_end", 2), ("beta_end", NESTED), ("beta_end", float("nan")),
        ("beta_schedule", "nosuch"), ("beta_schedule", NESTED), ("prediction_type", "x"), ("prediction_type", NESTED),
        ("trained_betas", NESTED), ("trained_betas", "x"), ("trained_betas", [0.1, -1]),
    )},
}  # fmt: skip
for _changes in MODEL.values():
    _changes.update({name: edit for name, edit in WHOLE.items() if name not in ("an empty object",)})


def damaged(changes: dict[str, Edit], file: Path) -> Iterator[str]:
    """Applies each change to a file, yields its name, and restores the file."""
    intact = file.read_bytes()
    for name, edit in changes.items():
        edit(file)
        yield name
        file.write_bytes(intact)
