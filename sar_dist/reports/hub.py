"""Uploading an export to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub

from sar_dist.errors import UserError, in_brief
from sar_dist.reports.model_card import CARD_FILE, TRAINING_FILE

_FILES = (CARD_FILE, TRAINING_FILE, "config.json", "model.safetensors")


def check_hub(repository: str) -> None:
    """Find what would stop an upload before there is anything to upload; asks nothing of the network.

    Args:
        repository: such as "name/vit_b_in1k".

    Raises:
        UserError: it is no name of a repository, or there is no token.
    """
    try:
        huggingface_hub.utils.validate_repo_id(repository)
    except huggingface_hub.errors.HFValidationError as error:
        raise UserError(f"--push-to-hub {repository}: {in_brief(error)}") from error
    if huggingface_hub.get_token() is None:
        raise UserError(
            "--push-to-hub: there is no token of the Hugging Face hub; run `hf auth login`, or set $HF_TOKEN to one that may write"
        )


def push_to_hub(export: Path, repository: str, *, private: bool = True) -> str:
    """Upload an export with its card; a repository that is there already gets a commit, and stays as private as it is.

    Args:
        export: folder written by ``sar_dist.models.export_run`` and ``write_card``.
        repository: such as "name/vit_b_in1k"; made if there is none.
        private: whether a new one is.

    Returns:
        Its address.

    Raises:
        UserError: no network, or the hub refuses.
    """
    hub = huggingface_hub.HfApi()
    try:
        made = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=made.repo_id, folder_path=export, allow_patterns=list(_FILES), commit_message="Upload by sar_dist"
        )
    except Exception as error:  # its errors are those of the HTTP library beneath, which changes between versions
        raise UserError(
            f"--push-to-hub {repository}: {in_brief(error)}; the export in {export} is complete, the same command tries again"
        ) from error
    return str(made)
