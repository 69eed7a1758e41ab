"""What this machine offers, and what to do about what it does not.

For: the first question when something does not work. Not for: the checks
(``hicmae/diagnosis/``), or measuring speed (``hicmae bench``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from json import dumps
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hicmae.diagnosis.finding import Finding
from hicmae.diagnosis.libraries import check_versions
from hicmae.diagnosis.machine import check_devices, check_services, check_storage
from hicmae.diagnosis.media import check_decoders, check_faces

CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_versions,
    check_devices,
    check_decoders,
    check_faces,
    check_storage,
    check_services,
)
_STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


def doctor(*, json: Path | None = None) -> int:
    """Say what this machine has, what is missing, and what to do about it.

    Looks at versions (against the ranges asked for), GPU, bf16, decoders (a clip is written and
    read), FFmpeg, face detectors, disk, shared memory, W&B and SLURM. `note`: works, with less;
    `broken`: a command will fail.

    Args:
        json: File for the same as JSON.

    Returns: 0, or 1 when something needed is broken.
    """
    findings = [finding for check in CHECKS for finding in check()]
    table = Table(title="hicmae doctor")
    for head in ("", "found", "state", "what to do"):
        table.add_column(head, overflow="fold")  # a path is of no use when it is cut
    for finding in findings:
        state = f"[{_STYLES[finding.state]}]{finding.state}[/]"
        table.add_row(escape(finding.topic), escape(finding.found), state, escape(finding.remedy))
    console = Console()
    console.print(table)
    counts = {state: sum(item.state == state for item in findings) for state in _STYLES}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))
    if json is not None:
        text = dumps([asdict(finding) for finding in findings], indent=1)
        json.parent.mkdir(parents=True, exist_ok=True)
        beside = json.with_name(f".{json.name}.part")
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(json)
    return 1 if counts["broken"] else 0
