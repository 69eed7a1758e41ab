"""A real SLURM of two nodes on one machine: munge, a controller and two node daemons of its own."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
_START_SECONDS = 60.0
_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


class SlurmUnavailable(RuntimeError):
    """There is no SLURM here, or its daemons cannot be started; says which and why."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A running cluster.

    Args:
        folder: Where its configuration, logs and spools are.
        environment: Variables with which the client programs find it.
    """

    folder: Path
    environment: Mapping[str, str]

    def call(
        self, *words: str, environment: Mapping[str, str] | None = None, seconds: float = 60
    ) -> str:
        """Run a client program; what it printed. Raises CalledProcessError."""
        done = subprocess.run(
            words,
            env={**os.environ, **self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def submit(self, script: Path, *options: str, environment: Mapping[str, str]) -> str:
        """Submit a script; the job's number."""
        words = ("sbatch", "--parsable", *options, str(script))
        return self.call(*words, environment=environment).strip()

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol show job`` says, by name."""
        text = self.call("scontrol", "show", "job", "--oneliner", number)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def log(self) -> str:
        """What the daemons have said of late, for a message."""
        files = sorted(self.folder.glob("slurm*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in files)

    def wait_for_end(self, number: str, *, seconds: float) -> dict[str, str]:
        """Wait until a job has ended for good; what is known of it."""
        deadline = time.monotonic() + seconds
        while (job := self.job(number))["JobState"] not in _ENDED:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {number} is {job['JobState']} ({job.get('Reason')})")
            time.sleep(0.25)
        return job


@contextmanager
def two_nodes(folder: Path) -> Iterator[Cluster]:
    """A cluster of the nodes ``n1`` and ``n2``, four processors each, until the block is left.

    Args:
        folder: An empty one with a short path: a socket's name has at most 107 bytes.

    Raises: SlurmUnavailable.
    """
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        raise SlurmUnavailable(f"{', '.join(absent)} not found (packages slurm-wlm and munge)")
    if os.geteuid() != 0:
        raise SlurmUnavailable("its node daemons start jobs as root only")
    config = _write_configuration(folder)
    daemons: list[subprocess.Popen[bytes]] = []
    environment = {"SLURM_CONF": str(config), "PATH": _path()}
    cluster = Cluster(folder=folder, environment=environment)

    def start(*words: str) -> None:
        log = (folder / f"{Path(words[0]).name}-{len(daemons)}.out").open("wb")
        daemons.append(
            subprocess.Popen(
                words,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
        log.close()

    try:
        start(
            "munged", "--foreground", "--force", f"--key-file={folder / 'munge.key'}",
            f"--socket={folder / 'munge.socket'}", f"--pid-file={folder / 'munge.pid'}",
            f"--log-file={folder / 'munge.log'}", f"--seed-file={folder / 'munge.seed'}",
        )  # fmt: skip
        _wait(lambda: (folder / "munge.socket").exists(), daemons, "munged's socket", folder)
        start("slurmctld", "-D", "-f", str(config))
        for name in ("n1", "n2"):
            start("slurmd", "-D", "-N", name, "-f", str(config))

        def idle() -> bool:
            try:
                states = cluster.call("sinfo", "--noheader", "--Node", "--format=%T").split()
            except RuntimeError:  # the controller does not answer yet
                return False
            return states == ["idle", "idle"]

        _wait(idle, daemons, "two idle nodes", folder)
        yield cluster
    finally:
        _stop(cluster, daemons)


def _stop(cluster: Cluster, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Cancel what still runs, then end the daemons, the last one first."""
    if len(daemons) > 1 and daemons[1].poll() is None:
        subprocess.run(
            ("scancel", "--user", getpass.getuser()),
            env={**os.environ, **cluster.environment},
            timeout=60,
            check=False,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and cluster.call("squeue", "--noheader").strip():
            time.sleep(0.25)
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in reversed(daemons):
        try:
            daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _write_configuration(folder: Path) -> Path:
    """Write ``slurm.conf`` and munge's key; the path of the former."""
    folder.chmod(0o755)  # munge wants to know that nobody else can write here
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o600)
    controller, first, second = _free_ports(3)
    host, user = socket.gethostname(), getpass.getuser()
    text = f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder / "munge.socket"}
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder / "slurmctld.log"}
SlurmdLogFile={folder}/slurmd-%n.log
# A requeued job is started again at once; a real cluster waits a little.
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
KillWait=10
MinJobAge=600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=4 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=4 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
    (folder / "state").mkdir()
    path = folder / "slurm.conf"
    path.write_text(text, encoding="utf-8")
    return path


def _wait(done: object, daemons: list[subprocess.Popen[bytes]], what: str, folder: Path) -> None:
    """Wait for something to be true while the daemons live.

    Raises: SlurmUnavailable: a daemon ended, or it took too long.
    """
    assert callable(done)
    deadline = time.monotonic() + _START_SECONDS
    while not done():
        dead = [daemon.args[0] for daemon in daemons if daemon.poll() is not None]  # type: ignore[index]
        if dead or time.monotonic() > deadline:
            said = " | ".join(
                path.read_text(errors="replace").strip().splitlines()[-1]
                for path in sorted(folder.glob("*.out"))
                if path.stat().st_size
            )
            why = f"{', '.join(map(str, dead))} ended" if dead else "it took too long"
            raise SlurmUnavailable(f"waiting for {what}: {why} ({said})")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def _path() -> str:
    """Where programs are looked for: daemons lie in ``sbin``."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
