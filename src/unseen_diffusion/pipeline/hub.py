"""Unseen domains on the Hugging Face hub: download and upload."""

import re
from pathlib import Path

from unseen_diffusion.models.folders import resolve
from unseen_diffusion.pipeline.storage import CARD, DOMAIN, TENSORS
from unseen_diffusion.utils.errors import InputError, first_line


def is_local(path: str) -> bool:
    """Whether a path is a local folder, which other machines do not have."""
    return Path(path).expanduser().is_dir()


def find_domain(path: str, revision: str | None) -> Path | None:
    """The folder of a saved unseen domain, local or from the hub; None where ``path`` is no saved domain."""
    local = Path(path).expanduser()
    if path.startswith("embedded:") or (not local.is_dir() and path.count("/") != 1):
        return None
    folder = local if local.is_dir() else _download(path, revision)
    return folder if folder is not None and (folder / DOMAIN).is_file() else None


def _download(path: str, revision: str | None) -> Path | None:
    """Downloads a hub repository's unseen domain; None where it has none, or the download fails."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(path, revision=revision, allow_patterns=[DOMAIN, TENSORS]))
    except Exception:  # the caller then loads it as a base model, whose error names the cause
        return None


def pinned(path: str, revision: str | None) -> str | None:
    """The commit that a hub id stands for now, so that it always loads the same weights; else ``revision``."""
    if path.startswith("embedded:") or is_local(path):
        return revision
    commit = resolve(path, revision, weights=False).name
    return commit if re.fullmatch("[0-9a-f]{40}", commit) else revision


def upload(
    folder: Path, repo_id: str, private: bool | None, token: str | None, commit_message: str, create_pr: bool
) -> str:
    """Uploads the three files of a saved domain, and nothing else, to the hub; returns the commit's address.

    Raises:
        InputError: offline, no permission, or another error of the hub.
    """
    import huggingface_hub

    try:
        hub = huggingface_hub.HfApi(token=token)
        repository = hub.create_repo(repo_id, private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            allow_patterns=[CARD, DOMAIN, TENSORS],
            commit_message=commit_message,
            create_pr=create_pr,
        )
    except Exception as error:  # the hub library raises a dozen unrelated types
        raise InputError(
            f"push_to_hub: {repo_id} cannot be written ({first_line(error)}); go online and log in, or save_pretrained "
            "and upload the folder later"
        ) from error
    return str(commit)
