"""Where a folder of shards is made, and what is done there: so a build can be killed and go on.

It is made in ``OUT.partial`` beside ``OUT``, where one process is at work at a time; what a killed
one made is kept. The folder holds ``shards`` (what becomes ``OUT`` by one rename),
``journal.jsonl``, a folder of staged samples, a lock, and for a moment ``old``, which is what
``OUT`` was.

The journal has one line of JSON for each recording and each finished shard, behind a first line
that says which build it is. A line that names a shard is written once the shard itself is on the
disk, behind the lines of its recordings; what follows the first damaged line is forgotten.
Recordings of which a sample lies in a shard that was not finished are opened again. Finished
folders keep no journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Any

from hicmae.files import LOCK, naming, only_writer, remove, sync_to_disk, whole_file
from hicmae.media.boxes import boxes_beside
from hicmae.media.images import IMAGE_SUFFIXES, sound_beside
from hicmae.media.recording import has_no_sound
from shards.building.prepare import Refusal
from shards.building.writer import shard_name
from shards.index import INFO_NAME, JOURNAL_NAME, TABLE_NAME
from shards.manifest import ManifestRow, printable
from shards.receipts.facts import library_versions
from shards.receipts.receipt import RECEIPT_JSON, RECEIPT_PAGE, RECEIPT_PICTURES
from shards.schema import SCHEMA_VERSION, Label
from shards.settings import REFUSED_NAME, BuildConfig, Part, in_full

_VERSION = 2  # 2: index rows have a checksum

IndexRow = dict[str, Label | None]

SUFFIX = ".partial"
_STAGING = "staging-"

# What a build writes besides tars.
_OURS = {INFO_NAME, TABLE_NAME, REFUSED_NAME, RECEIPT_JSON, RECEIPT_PAGE, RECEIPT_PICTURES}


class Workplace:
    """The folder ``OUT.partial``, locked while in use. Use it as a context manager.

    Raises (on entering):
        ValueError: Another process is at work there, or it holds what no build writes.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        place = out.resolve()  # a link to a folder on another disk is followed
        self.place = place
        self.folder = place.with_name(place.name + SUFFIX)
        self.shards = self.folder / "shards"
        self.journal = self.folder / JOURNAL_NAME
        self._old = self.folder / "old"
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Workplace:
        self._check_content()
        while self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            if self.folder.exists() and {path.name for path in self.folder.iterdir()} == {LOCK}:
                self.remove()  # nothing was begun
            self._lock.close()
            self._lock = None

    def staging(self) -> Path:
        """A new folder for staged samples; those of killed builds go.

        Its name is new every time: a worker that outlived its build may still write into an old
        one.
        """
        for leftover in self.folder.glob(f"{_STAGING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.folder))

    def clear(self) -> None:
        """Forget what was made so far, and keep the lock."""
        self.journal.unlink(missing_ok=True)
        for path in self.folder.iterdir():
            if path.name != LOCK:
                remove(path)

    def put_in_place(self) -> None:
        """Make ``shards`` the wanted folder by a rename, and remove the rest.

        A process killed between the renames leaves all that is needed to do them again.
        """
        for path in (*self.shards.rglob("*"), self.shards):
            sync_to_disk(path)
        if self.place.exists():
            self.place.rename(self._old)
        self.shards.rename(self.place)
        sync_to_disk(self.place.parent)
        self.remove()

    def remove(self) -> None:
        """Remove ``OUT.partial`` itself; the journal, which tells what the rest is, last."""
        last = (self.journal, self.folder / LOCK)
        for path in (*(path for path in self.folder.iterdir() if path not in last), *last):
            remove(path)
        self.folder.rmdir()

    def _check_content(self) -> None:
        """Refuse a folder of somebody else's, all of which would be removed.

        Raises: ValueError: it has another name than those of an unfinished build.
        """
        if not self.folder.is_dir():
            return
        # Earlier versions had the lock under the first name.
        ours = {"lock", self.shards.name, self._old.name, self.journal.name, REFUSED_NAME}
        others = sorted(
            path.name
            for path in self.folder.iterdir()
            if path.name not in ours
            and not path.name.startswith((_STAGING, "."))
            and path.suffix != ".part"
        )
        if others:
            raise ValueError(
                f"{self.folder}: holds what no build writes ({', '.join(others[:3])}"
                f"{', …' if len(others) > 3 else ''}), and is where {self.out} would be made; "
                "move it, or give another folder"
            )

    def _locked(self) -> IO[bytes] | None:
        """Lock the folder; None if it was removed meanwhile."""
        path = self.folder / LOCK
        try:
            lock = only_writer(self.folder)
        except FileNotFoundError:
            return None
        if not path.exists() or not os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            lock.close()
            return None
        return lock


def check_out(out: Path, overwrite: bool) -> bool:
    """Refuse a folder that holds something else; returns whether a build is to be replaced.

    Raises: ValueError: it is a file, has a name that is not free, or holds what is not to be lost.
    """
    if out.name.endswith(SUFFIX):
        raise ValueError(f"{out}: names that end in {SUFFIX} are those of unfinished builds")
    if not out.exists():
        return False
    if not out.is_dir():
        raise ValueError(f"{out}: is a file; give a folder")
    names = sorted(path.name for path in out.iterdir())
    others = [name for name in names if not is_of_build(name)]
    if others:
        raise ValueError(
            f"{out}: holds what no build writes ({', '.join(others[:3])}"
            f"{', …' if len(others) > 3 else ''}); give a new or empty folder"
        )
    built = any(name != REFUSED_NAME for name in names)
    if built and not overwrite:
        raise ValueError(f"{out}: holds shards already; pass --overwrite to replace them")
    return built


def is_of_build(name: str) -> bool:
    """Whether a build writes a file, or folder, of this name into its own."""
    return name in _OURS or name.endswith(".tar")


@dataclass(frozen=True, kw_only=True)
class Done:
    """A recording that was dealt with: the index rows of its samples, and what was refused."""

    samples: list[IndexRow] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


@dataclass(kw_only=True)
class JournalContent:
    """What a journal tells.

    Args:
        identity: Which build it is, see ``build_identity``.
        recordings: Place in the list of recordings → what became of it.
        shards: The finished shards by name, as ``index.json`` describes them.
        complete: Whether the folder was ready to be put in place.
        num_bytes: Length of the part that can be read.
    """

    identity: dict[str, Any]
    recordings: dict[int, Done] = field(default_factory=dict)
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete: bool = False
    num_bytes: int = 0


def read_journal(path: Path) -> JournalContent | None:
    """Read as far as it is whole; None if there is none, or not even its first line."""
    content: JournalContent | None = None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        for line in file:
            entry = _entry(line)
            if content is None:
                if entry is None or entry.get("journal") != _VERSION:
                    return None
                content = JournalContent(identity=entry["identity"])
            elif entry is None:
                break
            elif "recording" in entry:
                content.recordings[entry["recording"]] = Done(
                    samples=entry["samples"],
                    refusals=[Refusal(**refusal) for refusal in entry["refusals"]],
                )
            elif "shard" in entry:
                content.shards[entry["shard"]["name"]] = entry["shard"]
            else:
                content.complete = bool(entry["complete"])
            content.num_bytes += len(line)
    return content


class Journal:
    """Appends to a journal, beginning it if there is none. Use it as a context manager.

    Args:
        identity: Which build it is; equal to the one in the file, if there is one.
        content: What ``read_journal`` gave for the file.
    """

    def __init__(
        self, path: Path, identity: Mapping[str, Any], content: JournalContent | None
    ) -> None:
        self.content = content or JournalContent(identity=dict(identity))
        self._file = path.open("r+b" if content else "wb")
        self._file.truncate(self.content.num_bytes)
        self._file.seek(self.content.num_bytes)
        self._waiting: list[dict[str, Any]] = []
        if content is None:
            self._write({"journal": _VERSION, "identity": dict(identity)}, sync=True)

    def kept(self, number: int) -> Done | None:
        """What became of a recording, if nothing of it is lost with an unfinished shard."""
        done = self.content.recordings.get(number)
        return done if done and len(self.begun(number)) == len(done.samples) else None

    def begun(self, number: int) -> list[IndexRow]:
        """Those samples of a recording that lie in finished shards."""
        done = self.content.recordings.get(number) or Done()
        return [row for row in done.samples if row["shard"] in self.content.shards]

    def recording(self, number: int, done: Done) -> None:
        """Note what became of a recording, and then the shards that were finished meanwhile."""
        entry = {
            "recording": number,
            "samples": done.samples,
            "refusals": [asdict(refusal) for refusal in done.refusals],
        }
        self._write(entry)
        self.flush_shards()

    def shard(self, described: Mapping[str, Any]) -> None:
        """Remember a finished shard; noted by ``flush_shards``, behind its last recording."""
        self._waiting.append(dict(described))

    def flush_shards(self) -> None:
        """Note the finished shards, and wait until the disk has all that was noted."""
        for described in self._waiting:
            self._write({"shard": described}, sync=True)
        self._waiting.clear()

    def complete(self) -> None:
        """Note that the folder is ready to be put in place."""
        self._write({"complete": True}, sync=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def _write(self, entry: Mapping[str, Any], *, sync: bool = False) -> None:
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        with naming(Path(self._file.name)):
            self._file.write(line)
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())


def continue_journal(
    place: Workplace, identity: Mapping[str, Any], *, overwrite: bool
) -> JournalContent | None:
    """Find what an earlier run of this build did, and remove what it left unfinished.

    Args:
        place: Of the build, locked.
        identity: Of the build that is wanted, see ``build_identity``.
        overwrite: Whether the unfinished build of something else may go.

    Returns: what its journal tells; None where there is nothing to go on from.
    Raises: ValueError: there is an unfinished build of other recordings or settings.
    """
    content = read_journal(place.journal)
    if content is None:
        place.clear()
        return None
    told = _differences(content.identity, identity)
    in_place = content.complete and not place.shards.exists()
    if told and not overwrite and not in_place:
        raise ValueError(
            f"{place.folder}: an unfinished build, but not this one ({told}); give what was given "
            "then to go on with it, --overwrite to begin anew, or another folder"
        )
    if told or (in_place and not place.place.exists()):
        place.clear()
        return None
    if in_place:
        return content
    return _tidied(place, content)


def list_digest(rows: Sequence[ManifestRow]) -> str:
    """SHA-256 of a list of recordings: keys, names, spans, labels, and not where the files are."""
    digest = hashlib.sha256()
    for row in rows:
        values = {item.name: getattr(row, item.name) for item in fields(row)}
        said = {
            name: printable(value.name) if isinstance(value, Path) else value
            for name, value in values.items()
        }
        digest.update(json.dumps(said, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def build_identity(
    rows: Sequence[ManifestRow],
    config: BuildConfig,
    *,
    part: Part | None,
    listing: str,
) -> dict[str, Any]:
    """All that the bytes of a build or part follow from, as data that JSON gives back unchanged;
    ``listing`` is the digest of the whole list.
    """
    sizes, times = hashlib.sha256(), hashlib.sha256()
    for row in rows:
        beside = [boxes_beside(row.path)] if config.faces == "boxes" else []
        beside += _of_images(row)
        for path in (row.path, row.audio, row.boxes):
            sizes.update(f"{printable(path or '')} {_stamp(path)[0]}\n".encode())
        for path in (row.path, row.audio, row.boxes, *beside):
            times.update("{} {}\n".format(*_stamp(path)).encode())
    identity = {
        "settings": config.recorded(),
        "part": None if part is None else str(part),
        "list": listing,
        "files": sizes.hexdigest(),
        "times": times.hexdigest(),
        "programs": {
            "schema": SCHEMA_VERSION,
            **library_versions(),
        },
    }
    return dict(json.loads(json.dumps(identity)))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What two identities do not share, in words; empty if they are the same."""
    told = []
    for group in ("settings", "programs"):
        sides = (old[group], new[group])
        then, wanted = map(in_full, sides) if group == "settings" else sides
        for name in sorted({*then, *wanted}):
            before, now = then.get(name), wanted.get(name)
            if before != now:
                told.append(f"{name} was {before} and is {now}")
    if old["part"] != new["part"]:
        told.append(f"part was {old['part']} and is {new['part']}")
    if old["list"] != new["list"]:
        told.append("the sources list other recordings")
    elif old["part"] == new["part"]:
        if old["files"] != new["files"]:
            told.append("the files are others, or of another size")
        elif old.get("times", new["times"]) != new["times"]:  # journals of earlier versions
            told.append("files were changed since, by their times (which cp -p and rsync -t keep)")
    return ", ".join(told)


def _tidied(place: Workplace, content: JournalContent) -> JournalContent:
    """Keep what is whole: shards without a gap before them, and the recordings in them."""
    whole: dict[str, dict[str, Any]] = {}
    gone: set[str] = set()
    for name, described in sorted(content.shards.items()):
        path, split = place.shards / name, _split_of(name)
        whole_file = path.is_file() and path.stat().st_size == described["bytes"]
        follows = name == shard_name(split, sum(_split_of(other) == split for other in whole))
        if whole_file and follows and split not in gone:
            whole[name] = described
        else:
            gone.add(split)
    content.shards = whole
    # A recording whose samples were in an unfinished shard only is as good as new: its line could
    # be taken for true once a shard of that name is finished again.
    content.recordings = {
        number: done
        for number, done in sorted(content.recordings.items())
        if not done.samples or any(row["shard"] in whole for row in done.samples)
    }
    _write_journal(place.journal, content)  # before what it no longer knows goes
    if place.shards.exists():
        for path in place.shards.iterdir():
            if path.name not in whole:
                remove(path)
    return read_journal(place.journal) or content


def _write_journal(path: Path, content: JournalContent) -> None:
    with (
        whole_file(path, sync=True) as beside,
        Journal(beside, content.identity, None) as journal,
    ):
        for number, done in content.recordings.items():
            journal.recording(number, done)
        for described in content.shards.values():
            journal.shard(described)
        journal.flush_shards()


def _entry(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _split_of(shard: str) -> str:
    return shard.rpartition("-")[0]


def _of_images(row: ManifestRow) -> list[Path]:
    """What else the samples of a folder of images, or of a stack, are made of."""
    if not has_no_sound(row.path):
        return []
    try:
        sound = None if row.audio else sound_beside(row.path)
        inside = sorted(row.path.iterdir()) if row.path.is_dir() else []
    except OSError:  # which is said when it is built
        return []
    images = [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES]
    return images if sound is None else [*images, sound]


def _stamp(path: Path | None) -> tuple[int, int]:
    """Size of a file, -1 where there is none and for a folder of images; and when it was changed,
    nanoseconds, -1 where there is nothing.
    """
    try:
        status = None if path is None else path.stat()
    except OSError:
        status = None
    if status is None:
        return -1, -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1, status.st_mtime_ns
