"""Where the numbers of a run go: ``metrics.csv``, and Weights & Biases beside it.

Both trainers write through here, so that rows survive interruption and resuming alike.
"""

from __future__ import annotations

import csv
import io
import netrc
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from hicmae.files import naming, write_text
from hicmae.terminal import one_line

Row = Mapping[str, float | int]
WandbMode = Literal["online", "offline", "disabled", "shared"]
# What W&B takes by each of these names; two are older ones.
_WANDB_MODES: dict[str, WandbMode] = {
    "online": "online",
    "offline": "offline",
    "disabled": "disabled",
    "shared": "shared",
    "dryrun": "offline",
    "run": "online",
}
_ANSWER_SECONDS = 60.0  # that W&B has to answer when a run starts
# What W&B reads in the environment, which its arguments outrank: settings with a default of ours.
_VARIABLES = {
    "project": "WANDB_PROJECT",
    "run_group": "WANDB_RUN_GROUP",
    "run_notes": "WANDB_NOTES",
    "root_dir": "WANDB_DIR",
    "silent": "WANDB_SILENT",
    "init_timeout": "WANDB_INIT_TIMEOUT",
}


@dataclass(frozen=True, kw_only=True)
class WandbConfig:
    """Logging to Weights & Biases, beside ``metrics.csv``.

    What is null here is what W&B reads in the environment (WANDB_MODE, WANDB_PROJECT, WANDB_NAME),
    and where nothing stands there, a default. It reads all its other variables too.

    Args:
        mode: ``auto``: WANDB_MODE, and without it online where the user is logged in, else offline
            into the run folder; ``disabled``: none. The default is ``auto`` in pretraining and in
            the trials of a sweep, and ``offline`` in fine-tuning.
        project: Project there; the default is hicmae-pretrain or hicmae-finetune.
        name: Name of the run; the default is that of the run folder. That of a fold, of a seed and
            of modalities stand behind it.
    """

    mode: Literal["auto", "online", "offline", "disabled"] | None = None
    project: str | None = None
    name: str | None = None


def in_sweep() -> bool:
    """Whether an agent of a W&B sweep has started this program, as one trial."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def wandb_mode(mode: str | None, *, default: Literal["auto", "offline"] = "auto") -> WandbMode:
    """Turn ``auto`` into what W&B is started with: online only where the user is logged in.

    Args:
        mode: What the user asked for; ``None``: WANDB_MODE, or else the default.
        default: In a trial of a sweep, which its agent waits for, it is always ``auto``.

    Raises: ValueError: WANDB_MODE is nothing that W&B knows.
    """
    wished = os.environ.get("WANDB_MODE") if mode in (None, "auto") else mode
    if not wished and mode is None and default == "offline" and not in_sweep():
        return default
    if wished:
        if wished not in _WANDB_MODES:
            raise ValueError(
                f"WANDB_MODE = {wished} in the environment (must be online, offline or disabled); "
                "unset it, or give --wandb.mode"
            )
        return _WANDB_MODES[wished]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (FileNotFoundError, PermissionError, netrc.NetrcParseError):
        known = None
    return "online" if known else "offline"


class MetricsFile:
    """A CSV that grows by one row at a time.

    A row is written in one piece and handed to the operating system at once. A column that no row
    had before is added to the right, with the earlier rows left empty there.

    Args:
        path: The file; rows that are there already are kept.
        keep_steps: Rows of a later step than this are dropped first: a run that is resumed from
            step 100 makes step 101 again. ``None`` keeps all.

    Attributes: reached: The last step of what was there, dropped rows included; -1: nothing was.

    Raises: ValueError: a row has no step to compare.
    """

    def __init__(self, path: Path, *, keep_steps: int | None = None) -> None:
        self.path = path
        self.columns: list[str] = []
        self.reached = -1
        if path.is_file():
            rows = self._read()
            if keep_steps is not None:
                self.reached = max(map(self._step, rows), default=-1)
                rows = [row for row in rows if self._step(row) <= keep_steps]
            self._rewrite(rows)

    def append(self, row: Row) -> None:
        """Add a row; it must have ``step``."""
        new = [name for name in row if name not in self.columns]
        if new:
            rows = self._read() if self.path.is_file() else []
            self.columns += new
            self._rewrite(rows)
        with naming(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(self._line({name: _shown(value) for name, value in row.items()}))

    def _read(self) -> list[dict[str, str]]:
        """Whole rows of the file, and its columns; a crash may have cut the last row short."""
        text = self.path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
        rows = list(reader)
        self.columns = list(reader.fieldnames or ())
        return rows

    def _step(self, row: Mapping[str, str | None]) -> int:
        """The step of a row; ValueError where it is no number."""
        step = row.get("step") or ""
        if not step.isdecimal():
            raise ValueError(
                f"{self.path}: damaged (a row has step {step[:20]!r}); mend it, or move it away "
                "and go on without its rows"
            )
        return int(step)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        """Write the header and rows anew."""
        header = self._line({name: name for name in self.columns})
        write_text(self.path, header + "".join(self._line(row) for row in rows))

    def _line(self, row: Mapping[str, str]) -> str:
        """One line of the file."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row.get(name, "") for name in self.columns)
        return text.getvalue()


class WandbRun:
    """One run of Weights & Biases in a run folder; resuming continues it under the same id.

    The id stands in ``wandb/run-id.txt`` there; the run there has the resolved configuration, and
    as ``run_folder`` in it and as its notes the way back: host and folder. An offline run that was
    resumed has a folder for each part, ``wandb/offline-run-…``. Rows have the steps of the run in
    all of them, so that ``wandb sync wandb/offline-run-*`` joins them. A step that an earlier
    attempt has reached is not sent again: W&B would refuse it online, and have it twice offline.

    Args:
        folder: The run folder; W&B writes into its ``wandb/``, or into that of WANDB_DIR.
        verb: ``pretrain`` or ``finetune``, which have defaults of their own.
        name: Default of the name; none: that of the folder.
        part: What stands behind the name, and behind an id that the environment gives.
        group: Runs that belong together there; none: it stands alone.
        reached: The last step of an earlier attempt; -1: there was none.

    Raises: ValueError: W&B does not start in a mode that was asked for.
    """

    def __init__(
        self,
        folder: Path,
        settings: WandbConfig,
        config: dict[str, Any],
        *,
        verb: Literal["pretrain", "finetune"] = "pretrain",
        name: str | None = None,
        part: str = "",
        group: str | None = None,
        reached: int = -1,
    ) -> None:
        import wandb  # a second of import that processes without a run of it need not wait for

        default: Literal["auto", "offline"] = "auto" if verb == "pretrain" else "offline"
        self.mode: WandbMode = wandb_mode(settings.mode, default=default)
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        id_file = folder / "wandb" / "run-id.txt"
        if given := os.environ.get("WANDB_RUN_ID"):
            write_text(id_file, f"{given}{part}\n")
        elif not id_file.is_file():
            write_text(id_file, secrets.token_hex(4) + "\n")
        home = f"{socket.gethostname()}:{folder.resolve()}"
        name = settings.name or os.environ.get("WANDB_NAME") or name or folder.resolve().name
        ours: dict[str, Any] = {
            "project": f"hicmae-{verb}",
            "run_group": group,
            "run_notes": f"run folder: {home}",
            "root_dir": str(folder),
            "silent": True,
            "init_timeout": _ANSWER_SECONDS,
        }
        ours = {key: ours[key] for key, read in _VARIABLES.items() if not os.environ.get(read)}
        if settings.project is not None:
            ours["project"] = settings.project

        def start(mode: WandbMode) -> wandb.Run:
            try:
                return wandb.init(
                    name=f"{name}{part}",
                    id=id_file.read_text().strip(),
                    resume="allow",
                    mode=mode,
                    config={**config, "run_folder": home},
                    settings=wandb.Settings(**ours),
                )
            except wandb.errors.Error as error:
                remedy = "change that, or take --wandb.mode disabled"
                if mode == "online":
                    remedy = "log in with `wandb login`, or take --wandb.mode offline"
                said = one_line(str(error)).rstrip(".")
                raise ValueError(
                    f"wandb.mode = {mode}: {said}; {remedy}, and go on with --resume"
                ) from error

        try:
            self._run = start(self.mode)
        except ValueError as error:
            if self.mode != "online" or settings.mode == "online":  # the user asked for it
                raise
            wandb.teardown()  # else the attempt holds the run's id, which would be in use
            self.mode = "offline"
            self._run = start(self.mode)
            said = one_line(str(error.__cause__ or error)).rstrip(".")
            print(
                f"W&B cannot be reached ({said}): it logs offline, into "
                f"{self._run.settings.wandb_dir}; send that later with `wandb sync`",
                file=sys.stderr,
            )
        if self.mode != "disabled" and (own := os.environ.get("WANDB_DIR")):
            found = Path(self._run.settings.root_dir)
            if found != Path(own):  # W&B writes elsewhere, and says nothing here
                print(f"WANDB_DIR = {own}: cannot be written; W&B takes {found}", file=sys.stderr)
        self._parts: set[str | None] = set()
        self._reached = reached

    def log(self, row: Row, *, part: str | None = None) -> None:
        """Send a row; it must have ``step``.

        Args: part: What stands before all names of a row of a run in parts, such as ``fold-1/``;
            the part has steps of its own then, and W&B's own only count the rows.
        """
        step = int(row["step"])
        if part is None and step <= self._reached:
            return
        if part != "" and part not in self._parts:
            self._run.define_metric(f"{part or ''}*", step_metric=f"{part or ''}step")
            self._parts.add(part)
        named = {f"{part or ''}{name}": value for name, value in row.items()}
        self._run.log(named, step=step if part is None else None)

    def conclude(self, values: Row, *, part: str | None = None) -> None:
        """Set what came out in the end."""
        self._run.summary.update({f"{part or ''}{name}": value for name, value in values.items()})

    def log_picture(self, name: str, path: Path, step: int) -> None:
        """Send a picture under a name."""
        import wandb

        if step > self._reached:
            self._run.log({name: wandb.Image(str(path)), "step": step}, step=step)

    def finish(self, exit_code: int) -> None:
        """Close the run's file."""
        self._run.finish(exit_code=exit_code)


def _shown(value: float | int) -> str:
    """A number as text: seven digits are all that a float32 has."""
    return f"{value:.7g}" if isinstance(value, float) else str(value)
