"""A model of the Hugging Face Hub as a local folder: configuration, safetensors and tokenizer, nothing that can run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from httpx2 import RequestError
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from stages.lib.cli import UserError
from stages.lib.sources import wanted_files


@dataclass(frozen=True)
class Download:
    """A model at one commit."""

    folder: Path
    commit: str
    licence: str | None


def download(name: str, revision: str | None) -> Download:
    """Resolve `revision` (None: the newest) to a commit and fetch the model as it is there.

    Raises UserError, with one line, when the model, the revision or the Hub itself cannot be reached.
    """
    wanted = f"{name} at revision {revision}" if revision else name
    try:
        info = HfApi().model_info(name, revision=revision)
        wanted = wanted_files(file.rfilename for file in info.siblings or [])
        folder = snapshot_download(name, revision=info.sha, allow_patterns=wanted)
    except HFValidationError:
        raise UserError(f"{name} is no name a model of the Hub can have: mend base.hub in params.yaml") from None
    except GatedRepoError:
        raise UserError(f"{wanted} asks for consent: give it on the model's page, then run hf auth login") from None
    except RevisionNotFoundError:
        raise UserError(f"{name} has no revision {revision} on the Hub: mend base.revision in params.yaml") from None
    except RepositoryNotFoundError:
        raise UserError(f"the Hub has no model {name}, or it is private: mend base.hub in params.yaml") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "an error"
        raise UserError(f"the Hub answered {status} when asked for {wanted}: try again later") from None
    except (RequestError, OfflineModeIsEnabled, LocalEntryNotFoundError):
        raise UserError(
            f"{wanted} could not be fetched: no connection to the Hub. Try again, or use a folder (base.hub: null)"
        ) from None
    return Download(Path(folder), info.sha, info.card_data.license if info.card_data else None)
