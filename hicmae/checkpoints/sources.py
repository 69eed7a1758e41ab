"""Where a checkpoint comes from: a folder, a web address, or a repository of the Hugging Face Hub.

Any of the three becomes a folder on this machine, downloaded once, resumed where it broke off,
checked by digest.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs

from hicmae.checkpoints.checkpoint import CARD, CONFIG, PROBE, WEIGHTS, is_checkpoint
from hicmae.files import file_sha256, write_text
from hicmae.media.download import OFFLINE_VARIABLE, fetch, is_offline

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_TIMEOUT_SECONDS = 20.0
_CONFIG_BYTES = 1 << 22  # far more than any configuration; a web page that came instead is refused


def locate(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder of a checkpoint, downloaded if need be; its weights are what they should be.

    Args:
        source: A folder (a checkpoint or a run), ``https://…/folder`` of a checkpoint that any web
            server hands out, or ``owner/name`` on the Hub.
        revision: As ``huggingface_hub.snapshot_download`` and ``PortableModel.from_pretrained``
            have it; so are the others.

    Raises: ValueError: nothing of that name, no answer, nothing in the cache, or damaged weights.
    """
    text, offline = str(source), local_files_only or is_offline()
    if re.match(r"https?://", text):
        return _from_web(text, _cache(cache_dir), force=force_download, offline=offline)
    if Path(source).exists():
        return Path(source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        raise ValueError(
            f"{text}: no such folder; give a checkpoint or run folder, https://…, or owner/name"
        )
    folder = _from_hub(
        text,
        offline,
        revision=revision,
        cache_dir=cache_dir,
        force_download=force_download,
        token=token,
    )
    if not is_checkpoint(folder):
        raise ValueError(f"{text}: holds no {CONFIG} with {WEIGHTS}; no checkpoint of this project")
    _check_weights(folder)
    return folder


def _check_weights(folder: Path) -> None:
    """Compare the weights with the digest that the configuration gives, if it gives one."""
    wanted = _digest((folder / CONFIG).read_text(encoding="utf-8"), str(folder / CONFIG))
    if wanted is not None and file_sha256(folder / WEIGHTS) != wanted:
        raise ValueError(
            f"{folder / WEIGHTS}: not the file that {CONFIG} describes (SHA-256 differs); "
            "download it again with force_download"
        )


def _from_web(url: str, cache: Path, *, force: bool, offline: bool) -> Path:
    base = re.sub(rf"/+({re.escape(CONFIG)}|{re.escape(WEIGHTS)})?$", "", url)
    place = cache / hashlib.sha256(base.encode()).hexdigest()[:16]
    described = place / CONFIG
    if offline:
        if not described.is_file():
            raise ValueError(f"{base}: not downloaded yet, and the network may not be used")
        text = described.read_text(encoding="utf-8")
    else:
        text = _small_file(f"{base}/{CONFIG}")
    digest = _digest(text, f"{base}/{CONFIG}")
    if digest is None:
        raise ValueError(
            f"{base}/{CONFIG}: gives no weights_sha256, so a download could not be checked; "
            "write the checkpoint again with this version"
        )
    folder = place / digest[:16]
    if force:
        (folder / WEIGHTS).unlink(missing_ok=True)
    if not (folder / WEIGHTS).is_file():
        if offline:
            raise ValueError(f"{base}: not downloaded yet, and the network may not be used")
        fetch(f"{base}/{WEIGHTS}", folder / WEIGHTS, sha256=digest)
    for file in (folder / CONFIG, described):
        write_text(file, text)
    return folder


def _from_hub(name: str, offline: bool, **settings: Any) -> Path:
    """Download with the settings of ``snapshot_download``."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        files = [CONFIG, WEIGHTS, PROBE, CARD]
        return Path(
            huggingface_hub.snapshot_download(
                name, local_files_only=offline, allow_patterns=files, **settings
            )
        )
    except HfHubHTTPError as error:
        raise ValueError(_refusal(name, error, settings.get("revision"))) from error
    except LocalEntryNotFoundError as error:
        # What the Hub did answer, the library has put behind this one.
        answer = error.__cause__ or error.__context__
        if isinstance(answer, HfHubHTTPError):
            raise ValueError(_refusal(name, answer, settings.get("revision"))) from error
        why = "the network may not be used" if offline else "the Hub does not answer"
        raise ValueError(f"{name}: no such folder, not in the Hub's cache, and {why}") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name}: {huggingface_hub.constants.ENDPOINT} answers with a page and not as the Hub "
            "does; sign in to the network, or look at its proxy"
        ) from error


def _refusal(name: str, error: HfHubHTTPError, revision: str | None) -> str:
    """One line about what the Hub answered, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    if isinstance(error, RevisionNotFoundError):
        return f"{name}: has no revision {revision!r}; name a branch, a tag or a commit of it"
    if isinstance(error, GatedRepoError) or status == 403:
        remedy = "ask for access on its page, then give a token (hf auth login, or HF_TOKEN)"
    elif status in (401, 404):
        remedy = "look at the name; if it is private, give a token (hf auth login, or HF_TOKEN)"
    elif status == 429:
        wait = error.response.headers.get("Retry-After")
        remedy = (
            f"too many requests; try again {f'in {wait} s' if wait else 'later'}, or give a token"
        )
    elif status >= 500:
        remedy = "its own fault; try again later"
    else:
        remedy = "look at the name and the network"
    return f"{name}: no such folder, and the Hub refuses it (HTTP status {status}): {remedy}"


def _small_file(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            content = answer.read(_CONFIG_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url}: HTTP status {error.code} ({error.reason})") from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise ValueError(
            f"{url}: cannot be fetched ({reason}); {OFFLINE_VARIABLE}=1 uses what is in the cache"
        ) from None
    if len(content) > _CONFIG_BYTES:
        raise ValueError(f"{url}: too large for a configuration (more than {_CONFIG_BYTES} bytes)")
    return content.decode("utf-8", errors="replace")


def _digest(text: str, where: str) -> str | None:
    """The digest of the weights in a configuration's text."""
    try:
        found = json.loads(text).get("weights_sha256")
    except (ValueError, AttributeError):
        raise ValueError(f"{where}: no checkpoint's configuration (not JSON)") from None
    if found is not None and not re.fullmatch(r"[0-9a-f]{64}", str(found)):
        raise ValueError(f"{where}: weights_sha256 = {found!r} is no SHA-256")
    return found


def _cache(cache_dir: str | Path | None) -> Path:
    if cache_dir is not None:
        return Path(cache_dir)
    return Path(platformdirs.user_cache_dir("hicmae")) / "checkpoints"
