"""Are shards whole, and are they what their index and the schema say?

Everything is read and every image decoded; nothing is mended.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas

from hicmae.files import file_sha256
from hicmae.media.crops import decode_jpeg
from hicmae.processes import num_cores
from shards.building.journal import SUFFIX, read_journal
from shards.index import COLUMNS, JOURNAL_NAME, Index, described, read_index
from shards.reading.files import Row
from shards.schema import SampleInfo, ShardError, checksum, parse_sample_json

_MEMBERS = ("mjpg", "wav", "json")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Args:
        shard: File name of the shard, or of an index file.
        key: Of the sample; None if it concerns the shard.
    """

    shard: str
    message: str
    key: str | None = None

    def __str__(self) -> str:
        """One line."""
        sample = f"sample '{self.key}': " if self.key is not None else ""
        return f"{self.shard}: {sample}{self.message}"


def check_shards(
    folder: Path | str, *, on_shard: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Check a folder of shards.

    Args:
        folder: With its index; or that of an unfinished build (``OUT.partial``, or the ``OUT`` it
            is to become), of which the finished shards are compared with its journal.
        on_shard: Called with (done, total) after each shard.

    Returns: every problem, in the order of the shards; empty if all is well.

    Raises: FileNotFoundError, ShardError: as ``read_index``.
    """
    folder = Path(folder)
    beside = folder.with_name(folder.name + SUFFIX)
    for place in (folder, *(() if folder.exists() else (beside,))):
        if (place / JOURNAL_NAME).is_file():
            return _check_unfinished(place)
    index = read_index(folder)
    problems = list(_check_index(index))
    rows = dict(iter(index.table.groupby("shard", sort=False)))
    described = index.info["shards"]

    def check(shard: dict[str, Any]) -> list[Problem]:
        return list(_check_shard(index, shard, rows.get(shard["name"], index.table[:0])))

    # Threads: reading, hashing and decoding all let go of the interpreter.
    with ThreadPoolExecutor(min(8, num_cores())) as pool:
        for done, found in enumerate(pool.map(check, described), start=1):
            problems += found
            if on_shard:
                on_shard(done, len(described))
    return problems


def _check_unfinished(folder: Path) -> list[Problem]:
    """The finished shards of an unfinished build; that it is unfinished is the first problem."""
    content = read_journal(folder / JOURNAL_NAME)
    shards = content.shards.values() if content else ()
    num_recordings = len(content.recordings) if content else 0
    told = (
        f"an unfinished build ({num_recordings} recordings are dealt with, {len(shards)} shards "
        "are finished); give the command that began it again to finish it"
    )
    problems = [Problem(folder.name, told)]
    for shard in shards:
        path = folder / "shards" / shard["name"]
        if path.is_file():
            problems += _check_bytes(path, shard)
        else:
            problems.append(Problem(path.name, "is missing"))
    return problems


def _check_index(index: Index) -> Iterator[Problem]:
    table = index.table
    for key in table["key"][table["key"].duplicated()].unique():
        yield Problem("index.parquet", "is there more than once", str(key))
    for name in table.columns:
        if name not in COLUMNS and name not in index.label_columns:
            yield Problem("index.parquet", f"its column '{name}' is none that index.json lists")
    listed = set(index.shards)
    for name in sorted(set(table["shard"]) - listed):
        yield Problem(name, "has rows in the index, and is not in its list")
    for path in sorted(index.folder.rglob("*.part")):
        yield Problem(path.name, "is half-written; remove it")
    for path in sorted(index.folder.glob("*.tar")):
        if path.name not in listed:
            yield Problem(path.name, "is not in the index")
    counts = index.info["counts"]
    images = table["num_frames"][table["mjpg_length"] > 0]
    totals = {"num_samples": len(table), "num_frames": int(images.sum())}
    for name, found in totals.items():
        if counts.get(name) != found:
            message = f"counts {name} {counts.get(name)}, its table has {found}"
            yield Problem("index.json", message)


def _check_shard(index: Index, shard: dict[str, Any], rows: pandas.DataFrame) -> Iterator[Problem]:
    name, path = shard["name"], index.folder / shard["name"]
    if not path.is_file():
        yield Problem(name, "is missing; rebuild the folder")
        return
    yield from _check_bytes(path, shard)
    if len(rows) != shard["num_samples"]:
        message = f"index.json says {shard['num_samples']} samples, the table has {len(rows)}"
        yield Problem(name, message)
    try:
        with tarfile.open(path, "r:") as tar:
            found = {member.name: (member.offset_data, member.size) for member in tar}
    except (tarfile.TarError, OSError) as error:
        yield Problem(name, f"cannot be read as a tar ({error})")
        found = None
    expected: set[str] = set()
    with path.open("rb") as file:
        for record in rows.to_dict("records"):
            row = {str(name): value for name, value in record.items()}
            key = str(row["key"])
            present = [kind for kind in _MEMBERS if row[f"{kind}_length"] > 0]
            expected |= {f"{key}.{kind}" for kind in present}
            messages = list(_check_sample(file, row, index.label_columns, present, found))
            if not messages:
                begin, end = Row(**{name: row[name] for name in Row._fields[:-1]}).blocks
                file.seek(begin)
                if row["blocks_xxh3"] not in (0, checksum(file.read(end - begin))):
                    messages = ["its blocks in the tar are not those of its checksum in the index"]
            yield from (Problem(name, message, key) for message in messages)
    for extra in sorted(found.keys() - expected) if found is not None else ():
        key = extra.split(".")[0]
        yield Problem(name, f"its member {extra} is not in the index", key)


def _check_bytes(path: Path, shard: dict[str, Any]) -> Iterator[Problem]:
    """Length and digest of a tar against its description."""
    size = path.stat().st_size
    if size != shard["bytes"]:
        how = "it is truncated" if size < shard["bytes"] else "it has grown"
        yield Problem(path.name, f"has {size} bytes, the index says {shard['bytes']}; {how}")
    elif file_sha256(path) != shard["sha256"]:
        yield Problem(path.name, "its bytes are not those that were built (sha256)")


def _check_sample(
    file: io.BufferedReader,
    row: Mapping[str, Any],
    label_columns: Sequence[str],
    present: Sequence[str],
    found: dict[str, tuple[int, int]] | None,
) -> Iterator[str]:
    """What is wrong with one sample, without the names of shard and sample. ``present``: extensions
    of the members that the index tells of; ``found``: name → (offset, length) of those of the tar,
    None if it cannot be listed, and then the index is believed.
    """
    contents: dict[str, bytes] = {}
    for kind in present:
        offset, length = int(row[f"{kind}_offset"]), int(row[f"{kind}_length"])
        member = None if found is None else found.get(f"{row['key']}.{kind}")
        if found is not None and member is None:
            yield f"has no {kind} member"
            continue
        if member is not None and member != (offset, length):
            yield (
                f"its {kind} is at byte {member[0]} with {member[1]} bytes, the index says "
                f"{offset} with {length}"
            )
            offset, length = member
        file.seek(offset)
        contents[kind] = file.read(length)
        if len(contents[kind]) < length:
            yield f"its {kind} ends after {len(contents[kind])} of {length} bytes"
            del contents[kind]
    if "json" not in contents:
        if "json" not in present:
            yield "has no json member"
        return
    try:
        info = parse_sample_json(contents["json"], "its json")
    except ShardError as error:
        yield str(error)
        return
    missing = [kind for kind in info.members if kind not in present]
    if missing:
        yield f"its json tells of a {' and a '.join(missing)}, the index of none"
    for kind, what in (("mjpg", "images"), ("wav", "sound")):
        if kind in present and kind not in info.members:
            yield f"its json says that it has no {what}, the index has a {kind}"
    yield from _check_row(label_columns, row, info)
    for kind, digest in (("mjpg", info.digests.mjpg), ("wav", info.digests.wav)):
        if kind in contents and digest and hashlib.sha256(contents[kind]).hexdigest() != digest:
            yield f"its {kind} is not the one that was built (sha256)"
    if "mjpg" in contents:
        yield from _check_images(contents["mjpg"], info)
    if "wav" in contents:
        yield from _check_sound(contents["wav"], info)


def _check_row(
    label_columns: Sequence[str], row: Mapping[str, Any], info: SampleInfo
) -> Iterator[str]:
    labels = {name: info.labels.get(name) for name in label_columns}
    for name, value in ({"key": info.key} | described(info) | labels).items():
        in_index = None if pandas.isna(row[name]) else row[name]
        # A column of one kind may hold as text or as 1.0 what the json holds as 1.
        if value != in_index and str(value) != str(in_index):
            yield f"its json says {name} {value!r}, the index says {in_index!r}"


def _check_images(mjpg: bytes, info: SampleInfo) -> Iterator[str]:
    if len(mjpg) != info.frame_offsets[-1]:
        yield f"its mjpg has {len(mjpg)} bytes, its frame_offsets end at {info.frame_offsets[-1]}"
    side = info.face_size
    bad = []
    for number in range(info.num_frames):
        jpeg = mjpg[info.frame_offsets[number] : info.frame_offsets[number + 1]]
        try:
            if decode_jpeg(jpeg).shape != (side, side, 3):
                bad.append(number)
        except ValueError:
            bad.append(number)
    if bad:
        more = ", …" if len(bad) > 3 else ""
        yield (
            f"{len(bad)} of its {info.num_frames} images ({', '.join(map(str, bad[:3]))}{more}) "
            f"do not decode to {side}x{side} pixels"
        )


def _check_sound(wav: bytes, info: SampleInfo) -> Iterator[str]:
    """16-bit mono of the right rate, as long as the picture to within a frame."""
    try:
        with wave.open(io.BytesIO(wav)) as file:
            form = file.getnchannels(), 8 * file.getsampwidth(), file.getframerate()
            num_samples = len(file.readframes(file.getnframes())) // 2
    except (wave.Error, EOFError) as error:
        yield f"its wav cannot be read ({error})"
        return
    if form != (1, 16, info.sample_rate):
        yield (
            f"its wav has {form[0]} channels of {form[1]} bits at {form[2]} Hz, it should be 1 of "
            f"16 at {info.sample_rate}"
        )
        return
    if num_samples != info.num_samples:
        yield f"its wav has {num_samples} samples, its json says {info.num_samples}"
    if abs(num_samples / info.sample_rate - info.seconds) > 1 / info.fps:
        yield (
            f"its wav lasts {num_samples / info.sample_rate:.3f} s, its picture "
            f"{info.seconds:.3f} s"
        )
