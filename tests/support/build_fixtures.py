"""Builds of made-up recordings, for tests of what the build does around the decoding."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import wave
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from shards.building.prepare import Outcome, Refusal, StagedSample
from shards.building.workers import Lost
from shards.manifest import ManifestRow, segment_key
from shards.schema import SampleInfo, parse_sample_json
from shards.settings import BuildConfig
from tests.support.shard_fixtures import make_sample

LOG = "PREPARED_LOG"


def config(**changes: Any) -> BuildConfig:
    """Settings of a quick build without a detector."""
    return BuildConfig(**{"faces": "none", "face_size": 32, "workers": 2} | changes)


def digests(folder: Path) -> dict[str, str]:
    """Name → SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def samples(folder: Path) -> dict[str, tuple[SampleInfo, np.ndarray, np.ndarray | None]]:
    """Key → json, frames (N, S, S, 3) and sound (n,), read with the tar alone."""
    members: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, kind = member.name.split(".")
                members.setdefault(key, {})[kind] = tar.extractfile(member).read()  # type: ignore[union-attr]
    found = {}
    for key, kinds in members.items():
        info = parse_sample_json(kinds["json"], key)
        frames = [
            cv2.imdecode(np.frombuffer(kinds["mjpg"][a:b], np.uint8), cv2.IMREAD_COLOR)
            for a, b in zip(info.frame_offsets, info.frame_offsets[1:], strict=False)
        ]
        sound = None
        if "wav" in kinds:
            with wave.open(io.BytesIO(kinds["wav"])) as file:
                form = file.getnchannels(), file.getsampwidth(), file.getframerate()
                assert form == (1, 2, 16000), key
                sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        found[key] = info, np.stack(frames), sound
    return found


def write_list(folder: Path, names: Sequence[str]) -> Path:
    """A manifest of files that ``prepare_by_name`` understands; every fourth is of split test."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,split,fold"]
    for number, name in enumerate(names):
        (folder / f"{name}.mp4").write_text(name)
        lines.append(f"{name}.mp4,{'test' if number % 4 == 3 else 'train'},{number % 2}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder / "list.csv"


def prepare_by_name(row: ManifestRow, *, config: BuildConfig, staging: Path) -> Outcome:
    """Make what the name of a recording says: ``03``, ``04x2`` (two segments), ``05no``,
    ``06crash``; and note that it was asked for.
    """
    with open(os.environ[LOG], "a", encoding="utf-8") as log:  # noqa: PTH123
        log.write(f"{row.path.stem}\n")
    name = row.path.stem
    number, kind = int(name[:2]), name[2:]
    if kind == "crash":
        raise ChildProcessError
    if kind == "no":
        refusal = Refusal(path=str(row.path), cause="no-face", message=f"{row.path}: none")
        return Outcome(refusals=[refusal])
    made = []
    for segment in range(2 if kind == "x2" else 1):
        info, mjpg, wav = make_sample(
            number + 50 * segment, num_frames=3, split=row.split, labels=row.labels
        )
        values = {field: getattr(info, field) for field in info.__dataclass_fields__}
        values["key"] = segment_key(row.key, segment) if kind == "x2" else row.key
        stem = staging / f"{name}-{segment}"
        stem.with_suffix(".mjpg").write_bytes(mjpg)
        assert wav is not None
        stem.with_suffix(".wav").write_bytes(wav)
        made.append(
            StagedSample(
                info=SampleInfo(**values),
                mjpg=stem.with_suffix(".mjpg"),
                wav=stem.with_suffix(".wav"),
            )
        )
    return Outcome(samples=made)


def run_here(
    function: Callable[[Any], Any], items: Sequence[Any], **settings: Any
) -> Iterator[tuple[Any, Any]]:
    """Stands for ``run_in_order``: one after another, in this process."""
    for item in items:
        try:
            yield item, function(item)
        except ChildProcessError:
            yield item, Lost(cause="crash", message="its process was ended by SIGSEGV")


def write_small_receipt(folder: Path, **_: Any) -> None:
    """Stands for the receipt, whose drawings take their time."""
    (folder / "receipt").mkdir(exist_ok=True)
    (folder / "receipt/faces.png").write_bytes(b"png")
    (folder / "receipt.json").write_bytes((folder / "index.json").read_bytes())


def prepare_here(monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    """Let builds use ``prepare_by_name`` in this process."""
    monkeypatch.setenv(LOG, str(log))
    monkeypatch.setattr("shards.building.build.prepare_recording", prepare_by_name)
    monkeypatch.setattr("shards.building.build.run_in_order", run_here)
    monkeypatch.setattr("shards.receipts.receipt.write_receipt", write_small_receipt)


def prepared(log: Path) -> Counter[str]:
    """How often each recording was asked for; forgets it."""
    names = log.read_text(encoding="utf-8").split() if log.exists() else []
    log.unlink(missing_ok=True)
    return Counter(names)
