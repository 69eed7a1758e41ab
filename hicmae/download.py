"""One file fetched once: resumed where it broke off, checked by its digest, never half-written."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from hicmae.files import file_sha256, locked, naming
from hicmae.terminal import EVERYWHERE, one_line

OFFLINE_VARIABLE = "HICMAE_OFFLINE"
_TIMEOUT_SECONDS = 20.0
_ATTEMPTS = 3
_BLOCK_BYTES = 1 << 16
_PARTIAL_CONTENT, _RANGE_NOT_SATISFIABLE = 206, 416


class DownloadError(ValueError):
    """A file could not be fetched, or is not what it should be; one line."""


def is_offline() -> bool:
    """Whether ``HICMAE_OFFLINE`` forbids the network (any value but empty, 0, false and no)."""
    return os.environ.get(OFFLINE_VARIABLE, "").lower() not in ("", "0", "false", "no")


def fetch(url: str, path: Path, *, sha256: str) -> Path:
    """Download a file unless it is there, and give it its name once its digest is right.

    What arrived of an interrupted download lies in ``<name>.part`` and is gone on from, also by
    another process; two that fetch the same file at once wait for each other.

    Args:
        url: ``https://…`` (or ``http://…``).
        path: Where it belongs.
        sha256: Its digest, hexadecimal.

    Raises: DownloadError: The server does not answer or has no such file, the connection broke off
        again and again, or another file came; then nothing is kept of it. OSError: the file
        cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    with locked(path.with_name(f"{path.name}.lock")):
        if path.is_file():
            return path
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _fetch_rest(url, part)
            except urllib.error.HTTPError as error:
                why = one_line(str(error.reason))
                raise DownloadError(f"{url}: HTTP status {error.code} ({why})") from None
            except (OSError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in EVERYWHERE:
                    with naming(path):
                        raise
                # URLError, timeouts, resets and answers that break off; what came is kept.
                if attempt == _ATTEMPTS:
                    reason = one_line(str(getattr(error, "reason", None) or error))
                    raise DownloadError(f"{url}: cannot be fetched ({reason})") from None
                continue
            break
        digest = file_sha256(part)
        if digest != sha256:
            size = part.stat().st_size
            part.unlink()
            raise DownloadError(
                f"{url}: another file came: sha256 {digest[:16]}… ({size} bytes), expected "
                f"{sha256[:16]}…"
            )
        part.replace(path)
    return path


def _fetch_rest(url: str, part: Path) -> None:
    """Append what is missing of a file; a server that cannot do that sends all of it again."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == _RANGE_NOT_SATISFIABLE and have:
            return  # Nothing is missing, or another file is there: the digest tells.
        raise
    with answer:
        resumes = answer.status == _PARTIAL_CONTENT
        with part.open("ab" if resumes else "wb") as file:
            while block := answer.read(_BLOCK_BYTES):
                file.write(block)
        missing = answer.length
    if missing:  # http.client ends quietly where a connection closes early
        raise ConnectionError(f"broke off, {missing} bytes are missing")
