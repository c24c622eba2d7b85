"""Finds the files of a model in a local folder, the package or the hub: JSON, word lists and weights only."""

from collections.abc import Sequence
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


def embedded_folder(name: str) -> Path:
    """The folder of a base model that ships inside the package, e.g. ``photos32``."""
    folder = Path(str(files("unseen_diffusion") / "weights" / name))
    if not folder.is_dir():
        raise InputError(f"model.path={name}: no such embedded model in this installation")
    return folder


def resolve(path: str, revision: str | None = None, weights: bool = True) -> Path:
    """The local folder of a model, given as a folder, ``embedded:NAME`` or a hub id.

    Only JSON, the tokenizers' word lists and, with ``weights``, the parts' weights are fetched from the hub:
    safetensors, or .bin files for a part that has no others (they are read without executing anything).

    Raises:
        InputError: no such folder, or the hub cannot be reached and nothing is cached.
    """
    if path.startswith("embedded:"):
        return embedded_folder(path.removeprefix("embedded:"))
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise InputError(f"model.path={path}: no such folder; give a diffusers folder or a hub id such as owner/name")
    folder = snapshot("model.path", path, revision, ["*.json", *WORDS])
    if not weights:
        return folder
    snapshot("model.path", path, revision, ["*.json", *WORDS, *_patterns(weighted_parts(folder), ".safetensors")])
    if missing := [part for part in weighted_parts(folder) if not _found(folder, part)]:
        snapshot("model.path", path, revision, _patterns(missing, ".bin"))
    return folder


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


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds an object, as every config of a model does.

    Raises:
        InputError: the file is missing, is not JSON, or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}, not an object; download the model again")
    return found


def weighted_parts(folder: Path) -> list[str]:
    """The parts with weights that model_index.json names; without that file, a U-Net alone."""
    index = folder / "model_index.json"
    if not index.is_file():
        return ["unet"]
    named = read_object(index)
    parts = (*DIFFUSERS_PARTS, *TEXT_PARTS)
    return [part for part in parts if isinstance(entry := named.get(part), list) and entry and entry[0] is not None]


def part_file(folder: Path, part: str, name: str) -> Path:
    """The file of a pipeline's part: in its subfolder, or at the root as in the oldest hub models.

    Raises:
        InputError: no such file.
    """
    for candidate in (folder / part / name, folder / name):
        if candidate.is_file():
            return candidate
    raise InputError(f"{folder}: no {part}/{name}; give a diffusers folder, with model_index.json beside its parts")


def weight_files(folder: Path, part: str) -> list[Path]:
    """The files of a part's weights, an index first; safetensors before .bin.

    Raises:
        InputError: none, or an index that names absent files.
    """
    found = _found(folder, part)
    if not found:
        raise InputError(
            f"{folder}: no {part}/{_stem(part)[0]}.safetensors; download the weights, or save the pipeline again with "
            "save_pretrained(..., safe_serialization=True)"
        )
    if found.suffix != ".json":
        return [found]
    names = read_object(found).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) and name for name in names.values()) or not names:
        raise InputError(f"{found}: weight_map names no files; download it again")
    shards = sorted({found.parent / name for name in names.values()})
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        raise InputError(f"{folder}: {part}/{absent[0]} is listed in {found.name} but missing; download it again")
    return [found, *shards]


def _stem(part: str) -> tuple[str, str]:
    """File names without ending of safetensors and .bin: diffusers' and transformers' differ."""
    return ("model", "pytorch_model") if part in TEXT_PARTS else (WEIGHTS.removesuffix(".safetensors"),) * 2


def _found(folder: Path, part: str) -> Path | None:
    safe, pickled = _stem(part)
    names = (f"{safe}.safetensors", f"{safe}.safetensors.index.json", f"{pickled}.bin", f"{pickled}.bin.index.json")
    # Only a U-Net may lie at the root: several parts would share the name.
    places = (folder / part, folder) if part == "unet" else (folder / part,)
    return next((place / name for name in names for place in places if (place / name).is_file()), None)


def _patterns(parts: Sequence[str], ending: str) -> list[str]:
    """Patterns for the hub: whole or sharded weights, of full precision only."""
    stems = {part: _stem(part)[0 if ending == ".safetensors" else 1] for part in parts}
    names = [f"{part}/{stem}{middle}{ending}" for part, stem in stems.items() for middle in ("", "-*-of-*")]
    return names + [f"{stem}{ending}" for part, stem in stems.items() if part == "unet"]
