"""Finds the files of a model in a local folder, the package or the hub: JSON, word lists and weights only."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.files import read_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
# The parts of a pipeline whose weights are read; nothing else (no safety checker, no code) is fetched.
DIFFUSERS_PARTS = ("unet", "transformer", "vae", "vqvae")
TEXT_PARTS = ("text_encoder", "text_encoder_2")
WORDS = ("tokenizer/merges.txt", "tokenizer_2/merges.txt")
ENDINGS = "(?:safetensors|bin)"
SAFE, PICKLED = ".safetensors", ".bin"
ANY = "*"  # every variant
OTHER_WEIGHTS = (SAFE, PICKLED, ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx")  # that a folder may have instead


def embedded_folder(name: str) -> Path:
    """The folder of a base model that ships inside the package, e.g. ``photos32``."""
    weights = Path(str(files("unseen_diffusion") / "weights"))
    known = sorted(index.parent.name for index in weights.glob("*/model_index.json"))
    if name not in known:
        raise InputError(f"model.path=embedded:{name}: no such embedded model; choose one of {', '.join(known)}")
    return weights / name


def resolve(path: str, revision: str | None = None, weights: bool = True, variant: str | None = None) -> Path:
    """The local folder of a model, given as a folder, ``embedded:NAME`` or a hub id.

    Only JSON, the tokenizers' word lists and, with ``weights``, the parts' weights are fetched from the hub: for each
    part the named ``variant``, else full precision, else the variants there are; safetensors before .bin files, which
    are read without executing anything.

    Raises:
        InputError: no such folder, or the hub cannot be reached and nothing is cached.
    """
    if path.startswith("embedded:"):
        return embedded_folder(path.removeprefix("embedded:"))
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        near = f"did you mean {near_folder(local)}? else " if near_folder(local) else ""
        raise InputError(
            f"model.path={path}: no such folder; {near}give a diffusers folder or a hub id such as owner/name "
            "(unseen models says how to get those of conf/)"
        )
    folder = snapshot("model.path", path, revision, ["*.json", *WORDS])
    if not weights:
        return folder
    parts, named = weighted_parts(folder), [variant] if variant else []
    attempts = [(kind, ending) for kind in (*named, None, ANY) for ending in (SAFE, PICKLED)]
    for number, (kind, ending) in enumerate(attempts):
        wanted = parts if number == 0 else [part for part in parts if not _is_fetched(folder, part, variant, kind)]
        if wanted:
            also = ["*.json", *WORDS] if number == 0 else []
            snapshot("model.path", path, revision, [*also, *_patterns(wanted, ending, kind)])
    return folder


def _is_fetched(folder: Path, part: str, variant: str | None, kind: str | None) -> bool:
    """Whether the part has weights that are preferred to files of this ``kind``, or of the kind itself."""
    kinds: list[str | None] = [variant] if variant else []
    if kind != variant or kind is None:
        kinds += [None, *(variants(folder, part) if kind == ANY else ())]
    return any(_is_whole(_found(folder, part, one)) for one in kinds)


def _is_whole(found: Path | None) -> bool:
    """Whether weights were found, with all files that an index names."""
    return found is not None and all(path.is_file() for path in (_shards(found) if found.suffix == ".json" else ()))


def near_folder(path: Path) -> Path | None:
    """A folder beside ``path`` with nearly the same name."""
    if not path.parent.is_dir():
        return None
    beside = {one.name.lower(): one for one in path.parent.iterdir() if one.is_dir()}
    return next((beside[name] for name in get_close_matches(path.name.lower(), beside, 1, 0.8)), None)


def snapshot(key: str, path: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """The folder of a hub repository's requested files, downloaded or cached; errors name the setting ``key``.

    Raises:
        InputError: the hub cannot be reached, and nothing is cached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub library raises a dozen unrelated types
        raise InputError(
            f"{key}={path}: not a local folder, not cached, and not found on the hub ({first_line(error)}); "
            "check the name, or download it once while online"
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Raises:
        InputError: the file is missing, is not JSON, or holds something else.
    """
    try:
        config = read_json(path)
    except RecursionError as error:
        raise InputError(f"{path}: nested too deeply; download it again") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds a {type(config).__name__}, but a config is an object; download it again")
    return config


def index_parts(folder: Path) -> dict[str, list[str]]:
    """The parts that model_index.json names, each as [library, class].

    Raises:
        InputError: the file is missing or is no such index.
    """
    entries = {
        name: value for name, value in read_config(folder / "model_index.json").items() if isinstance(value, list)
    }
    for name, entry in entries.items():
        if len(entry) != 2 or not all(isinstance(one, str | None) for one in entry):
            raise InputError(f"{folder}: {name} in model_index.json is {entry}; give [library, class], or [null, null]")
    return {name: entry for name, entry in entries.items() if entry[0] and entry[1]}


def weighted_parts(folder: Path) -> list[str]:
    """The parts with weights that model_index.json names; without that file, a U-Net alone."""
    if not (folder / "model_index.json").is_file():
        return ["unet"]
    named = index_parts(folder)
    return [part for part in (*DIFFUSERS_PARTS, *TEXT_PARTS) if part in named]


def part_file(folder: Path, part: str, name: str) -> Path:
    """The file of a pipeline's part: in its subfolder, or at the root as in the oldest hub models.

    Raises:
        InputError: no such file.
    """
    for candidate in (folder / part / name, folder / name):
        if candidate.is_file():
            return candidate
    near = next((f"did you mean {index.parent}? else " for index in sorted(folder.glob("*/model_index.json"))), "")
    raise InputError(
        f"{folder}: no {part}/{name}; {near}give a diffusers folder, with model_index.json beside its parts"
    )


def weight_files(folder: Path, part: str, variant: str | None = None) -> list[Path]:
    """The files of a part's weights, an index first; safetensors before .bin.

    A part without weights of the named ``variant`` takes those of full precision, and without these its only variant.

    Raises:
        InputError: none, several variants to choose from, or an index that names absent files.
    """
    found = (_found(folder, part, variant) if variant else None) or _found(folder, part)
    if found is None:
        known = variants(folder, part)
        if len(known) > 1:
            raise InputError(
                f"{folder}: {part} has weights of the variants {', '.join(known)} only; choose one, e.g. "
                f"model.variant={known[0]}"
            )
        found = _found(folder, part, known[0]) if known else None
    if found is None:
        raise InputError(
            f"{folder}: no {part}/{_stem(part)[0]}.safetensors{_instead(folder, part)}; download the weights, or save "
            "the pipeline again with save_pretrained(..., safe_serialization=True)"
        )
    if found.suffix != ".json":
        return [found]
    shards = _shards(found)
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        raise InputError(f"{folder}: {part}/{absent[0]} is listed in {found.name} but missing; download it again")
    return [found, *shards]


def variants(folder: Path, part: str) -> list[str]:
    """The variants of a part's weights, such as ``fp16`` of diffusion_pytorch_model.fp16.safetensors."""
    names = [path.name for place in _places(folder, part) if place.is_dir() for path in place.iterdir()]
    return sorted({variant for name in names if (variant := variant_of(name, part))})


def variant_of(name: str, part: str) -> str | None:
    """The variant of a file of weights, or of its index, by its name; None for full precision or another file."""
    match = re.fullmatch(rf"(?:{'|'.join(_stem(part))})(?:\.(\w+)\.{ENDINGS}|\.{ENDINGS}\.index\.(\w+)\.json)", name)
    return match and (match[1] or match[2])


def _shards(index: Path) -> list[Path]:
    """The files that an index names.

    Raises:
        InputError: it is damaged.
    """
    weight_map = read_config(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{index}: names no files of weights; download it again")
    return sorted({index.parent / name for name in weight_map.values()})


def _stem(part: str) -> tuple[str, str]:
    """File names without ending of safetensors and .bin: diffusers' and transformers' differ."""
    return ("model", "pytorch_model") if part in TEXT_PARTS else (WEIGHTS.removesuffix(SAFE),) * 2


def _places(folder: Path, part: str) -> tuple[Path, ...]:
    """Where a part's weights may lie. Only a U-Net may lie at the root: several parts would share the name."""
    return (folder / part, folder) if part == "unet" else (folder / part,)


def _found(folder: Path, part: str, variant: str | None = None) -> Path | None:
    """The weights of a part in full precision, or of a variant: one file, or the index of several."""
    (safe, pickled), middle = _stem(part), f".{variant}" if variant else ""
    names = [f"{safe}{middle}{SAFE}", f"{safe}{SAFE}.index{middle}.json"]
    names += [f"{pickled}{middle}{PICKLED}", f"{pickled}{PICKLED}.index{middle}.json"]
    places = _places(folder, part)
    return next((place / name for name in names for place in places if (place / name).is_file()), None)


def _instead(folder: Path, part: str) -> str:
    """What a part has in place of weights of a known name, for the message."""
    there = folder / part
    names = sorted(path.name for path in there.iterdir() if path.suffix in OTHER_WEIGHTS) if there.is_dir() else []
    return f" (but {part}/{names[0]}, whose name or format is not read)" if names else ""


def _patterns(parts: Sequence[str], ending: str, variant: str | None = None) -> list[str]:
    """Patterns for the hub: whole or sharded weights of full precision, of a variant, or of ``ANY``."""
    middle = f".{variant}" if variant else ""
    names = []
    for part in parts:
        stem = _stem(part)[0 if ending == SAFE else 1]
        names += [f"{part}/{stem}{middle}{ending}", f"{part}/{stem}{middle}-*-of-*{ending}"]
        names += [f"{part}/{stem}-*-of-*{middle}{ending}"] if variant else []
        names += [f"{stem}{middle}{ending}"] if part == "unet" else []
    return names
