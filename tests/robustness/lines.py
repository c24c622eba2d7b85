"""Malformed command lines: wrong values derived from what every option's class declares, and lists of other lines.

The types and bounds of a declaration decide which of ``CANDIDATES`` are wrong for a key. They are read here from the
annotations alone, without the code that checks them.
"""

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from robustness.outcomes import Outcome, outcome
from support.commands import TINY
from unseen_diffusion.cli import main
from unseen_diffusion.runs.keys import SECTIONS, RunKeys
from unseen_diffusion.sweeps.composition import check_folders_are_text, expand
from unseen_diffusion.sweeps.launch import check_all
from unseen_diffusion.sweeps.options import GROUPS, _imported, _values, files
from unseen_diffusion.utils.checked import as_written, hints

# Values of every kind that YAML has. For one key, those are wrong whose kind its declaration does not name.
CANDIDATES: tuple[tuple[str, Any], ...] = (
    ("null", None),
    ("bool", True),
    ("int", 3),
    ("float", 2.5),
    ("special", math.nan),
    ("special", math.inf),
    ("special", -math.inf),
    ("str", "nosuch"),
    ("list", []),
    ("list", [["deep", [None]]]),
    ("dict", {"nosuch": {"deep": 1}}),
)
KINDS = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}
PER_KEY = 2  # wrong values of one key that are tried
# (group, option) -> overrides beside it. "images" and "model" are folders that the test makes.
NEEDED = {
    ("domain", "folder"): ("domain.path=images",),
    ("domain", "parquet"): ("domain.path=images.parquet",),
    ("domain", "mnist"): ("domain.path=images.parquet",),
    ("domain", "cifar10"): ("domain.path=images.parquet",),
    ("model", "diffusers"): ("model.path=model",),
}
# Options that are left out, with the reason.
# Not among the lines: ~domain.references, ~prior.name and the like (the class's default applies); features=inception
# without its file (downloaded when a run starts); domain.name= (takes the name of the folder); folders below /proc
# (writable for root, as far as the system says).
LEFT_OUT = {
    ("domain", "hub"): "its images lie on the hub: every line would wait for a network",
    ("experiment", ""): "sets keys of the other groups; has none of its own",
    ("model", "sd21_base"): "a hub model; its class is that of model=diffusers",
    ("features", "dinov2"): "needs transformers",
}
# Values that a key's declaration excludes but that a run may take, with the reason.
HARMLESS = {
    "model.name": "a caption; whatever it is becomes text",
}

SOME_KEYS = (
    "samples", "seed", "batch_size", "device", "progress", "workers", "mixing.t", "mixing.record", "bandwidth.eta",
    "rejection.max_proposals", "paths.outputs", "paths.store", "paths.cache", "domain.name", "domain.references",
    "model.size", "model.name", "features.side", "solver.steps", "solver.name", "scores.rows", "scores.extra",
    "tolerances.k", "prior.name", "method.name", "hydra.run.dir",
)  # fmt: skip
TRAIN_KEYS = (
    "training.folder", "training.name", "training.loop.steps", "data.size", "data.images.on_unreadable",
    "paths.outputs",
    "device", "training.schedule.beta_end", "training.network.width",
)  # fmt: skip
INTERPOLATIONS = ("${nosuch}", "${oc.env:NOPE}", "${samples", "${nosuch:1}", "${.nosuch}", "${{SELF}}")
LINES = [line for line in (Path(__file__).with_name("lines.txt")).read_text().splitlines() if line and line[0] != "#"]


def is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def kinds_of(annotation: Any) -> set[str]:
    """The kinds of values that an annotation names."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kinds_of(inner[0])
    if origin is Literal:
        return {f"literal {value}" for value in inner}
    if is_union(annotation):
        return {kind for one in inner for kind in kinds_of(one)}
    if annotation in KINDS:
        kind = KINDS[annotation]
        return {"int", "float"} if kind == "float" else {kind}
    if origin is not None and issubclass(origin, Mapping):
        return {"dict"}
    if origin is not None and issubclass(origin, Sequence):
        return {"list"}
    return {"object"}


def bounds_of(annotation: Any) -> Iterator[float | str]:
    """Values just beyond the bounds of an annotation."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        step = 1 if "float" not in kinds_of(inner[0]) else 1e-6
        for one in [part for field in inner[1:] for part in (field, *getattr(field, "metadata", ()))]:
            for name, sign, distance in (("ge", -1, step), ("gt", -1, 0), ("le", 1, step), ("lt", 1, 0)):
                if (bound := getattr(one, name, None)) is not None:
                    yield bound + sign * distance
            if getattr(one, "min_length", None) == 1 and kinds_of(inner[0]) == {"str"}:
                yield ""
        yield from bounds_of(inner[0])
    elif is_union(annotation) and sum(kinds_of(one) != {"null"} for one in inner) == 1:
        for one in inner:
            yield from bounds_of(one)


def wrong_values(annotation: Any) -> list[Any]:
    """Values that an annotation excludes: beyond its bounds first, then of other kinds."""
    known = kinds_of(annotation)
    others = [
        value
        for kind, value in CANDIDATES
        if kind not in known and not (kind == "dict" and "object" in known) and f"literal {value}" not in known
    ]
    if "list" in known:
        others = [*others, [["deep", [None]]], [math.nan]]
    return [*bounds_of(annotation), *others]


def declarations(target: Any) -> dict[str, Any]:
    """The annotations of a settings class, or of the arguments of what else a config calls, by name."""
    if is_dataclass(target):
        return hints(target)
    function = vars(target)["__init__"] if isinstance(target, type) else target
    options = getattr(function, "settings_options", None)
    found = hints(function) | (hints(options) if options else {})
    return {name: annotation for name, annotation in found.items() if name != "options"}


def keys() -> Iterator[tuple[tuple[str, ...], str, list[Any]]]:
    """(overrides that choose the option, key, its wrong values), each class once, each key of it once."""
    seen: set[tuple[str, str]] = set()
    for name, annotation in hints(RunKeys).items():
        yield (), name, wrong_values(annotation)
    for section, kind in SECTIONS.items():
        for name, annotation in hints(kind).items():
            yield (), f"{section}.{name}", wrong_values(annotation)
    for group in GROUPS:
        if (group, "") in LEFT_OUT:
            continue
        for option, path in files(group).items():
            target = _values(path).get("_target_")
            if target is None or (group, option) in LEFT_OUT:
                continue
            for name, annotation in declarations(_imported(target)).items():
                key = f"{group}.{name}"
                owner = f"{annotation}"
                if (key, owner) not in seen and key not in HARMLESS and name != "device":
                    seen.add((key, owner))
                    yield (f"{group}={option}", *NEEDED.get((group, option), ())), key, wrong_values(annotation)


def derived() -> Iterator[tuple[str, Callable[[], Outcome], Sequence[str]]]:
    """A line for each wrong value of each key: its text, the call, and words of which the refusal names one."""
    composed: dict[tuple[str, ...], DictConfig] = {}
    for number, (chosen, key, values) in enumerate(keys()):
        if chosen not in composed:
            composed[chosen] = expand("run", [*without_groups(chosen), *chosen]).points[0]
        for at in range(min(PER_KEY, len(values))):
            value = values[(at * 3 + number) % len(values)]

            def call(base: DictConfig = composed[chosen], key: str = key, value: Any = value) -> None:
                config = deepcopy(base)
                OmegaConf.update(config, key, value, merge=False, force_add=True)
                check_folders_are_text(config)
                check_all([config])

            text = f"unseen run {' '.join(chosen)} {key}={as_written(value)}"
            yield text, lambda call=call: outcome(call), (key, key.rpartition(".")[2])


def without_groups(chosen: Sequence[str]) -> list[str]:
    """The tiny run's arguments without those of the groups that ``chosen`` sets."""
    groups = {word.partition("=")[0].partition(".")[0] for word in chosen}
    return [word for word in TINY if word.partition("=")[0].partition(".")[0] not in groups]


def written() -> Iterator[tuple[str, Callable[[], Outcome], Sequence[str]]]:
    """The lines of ``LINES`` as typed, and each broken interpolation in the place of each of ``SOME_KEYS``."""
    lines = [*LINES, *(f"run '{key}={value}'" for key in SOME_KEYS for value in INTERPOLATIONS)]
    lines += [f"train data=folder data.path=images '{key}={value}'" for key in TRAIN_KEYS for value in INTERPOLATIONS]
    for line in lines:
        verb, *own = shlex.split(line)
        chosen = [word for word in own if "=" in word and "." not in word.partition("=")[0]]
        words = [verb, *without_groups(chosen), *own] if verb == "run" else [verb, *own]
        parts = [
            part for word in own for part in (word.lstrip("+~-").partition("=")[0], word.partition("=")[2]) if part
        ]
        yield (
            f"unseen {line}",
            lambda words=words: outcome(lambda: main(words)),
            (*parts, *(part.partition(".")[0] for part in parts), verb),
        )
