"""The scripts for SLURM, on a real one of two nodes that the test starts on this machine."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hicmae.checkpoints.checkpoint import load_checkpoint
from hicmae.config import save_yaml
from hicmae.settings import ModelConfig
from tests.support.forked_program import forked_program
from tests.support.pretrain_processes import Runs
from tests.support.pretrain_shards import assert_same_weights, moving_shards, rows_of
from tests.support.slurm_cluster import Cluster, SlurmUnavailable, two_nodes
from tests.support.wandb_file import run_record, wait_for_end

SCRIPTS = (
    "pretrain/slurm/one_node.sbatch",
    "pretrain/slurm/several_nodes.sbatch",
    "finetune/slurm/folds.sbatch",
)
STEPS = 24
SETTLED = "# --- what it does not "


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_bash_whose_settings_stand_on_top(name: str, repository: Path) -> None:
    """SLURM reads no setting after the first command."""
    path = repository / name
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=30)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    settings = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    first_command = next(
        number for number, line in enumerate(lines) if line and not line.startswith("#")
    )
    assert settings, "no settings"
    assert max(settings) < first_command
    assert lines.index(next(line for line in lines if line.startswith(SETTLED))) > max(settings)


def test_one_node_and_several_do_the_same(repository: Path) -> None:
    one, several = ((repository / name).read_text().split(SETTLED)[1] for name in SCRIPTS[:2])
    assert one == several


# Stands for ``hicmae finetune``: leaves a fold and an offline run of W&B, and says which it is.
STAND_IN = """\
#!/bin/bash
while (($#)); do
  case $1 in --out) out=$2 ;; --folds) fold=$2 ;; esac
  shift
done
mkdir -p "$out$PART/fold-$fold" "$out$PART/wandb/fold-$fold/wandb/offline-run-$RUN"
echo "$RUN" >"$out$PART/fold-$fold/done"
echo "$RUN" >"$out$PART/wandb/fold-$fold/wandb/run-id.txt"
ln -s "offline-run-$RUN" "$out$PART/wandb/fold-$fold/wandb/latest-run"
"""


@pytest.mark.parametrize("part", ["", "/seed-1"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_fold_that_was_deleted_is_trained_anew(
    part: str, slash: str, tmp_path: Path, repository: Path
) -> None:
    """W&B's files of its first training lie in a folder of its name."""
    program, out = tmp_path / "hicmae", tmp_path / "a sweep"
    program.write_text(STAND_IN)
    program.chmod(0o755)

    def task(run: str, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RUN": run, "PART": part}
        return subprocess.run(
            ["bash", str(repository / SCRIPTS[2]), *words],
            env=environment | {"SLURM_ARRAY_TASK_ID": "3"},
            capture_output=True,
            text=True,
            check=False,
        )

    words = ["--benchmark", "some", "--out", f"{out}{slash}"]
    assert task("one", *words).returncode == 0
    assert task("two", *words).stdout == f"{out}, fold 3: finished already\n"
    shutil.rmtree(f"{out}{part}/fold-3")
    done = task("three", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Path(f"{out}{part}/fold-3/done").read_text() == "three\n"
    runs = Path(f"{out}{part}/wandb/fold-3/wandb")
    names = {"latest-run", "offline-run-one", "offline-run-three", "run-id.txt"}
    assert {path.name for path in runs.iterdir()} == names
    assert (runs / "latest-run").readlink().name == "offline-run-three"
    assert {path.name for path in tmp_path.iterdir()} == {"hicmae", "a sweep"}
    without = task("four", "--benchmark", "some", "--out")
    assert (without.returncode, "no --out" in without.stderr) == (2, True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster in a folder with a short name, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="hicmae-slurm-"))
    try:
        with two_nodes(folder) as running:
            yield running
    except SlurmUnavailable as error:
        pytest.skip(f"no SLURM: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def program() -> Iterator[str]:
    """What is called in place of ``hicmae`` where its start is not what is tested."""
    with (
        tempfile.TemporaryDirectory(prefix="hicmae-fork-") as folder,
        forked_program(Path(folder)) as called,
    ):
        yield called


@pytest.fixture
def command(tmp_path: Path, tiny_model_config: ModelConfig) -> list[str]:
    """Options of a run on two processes with DeepSpeed over gloo."""
    shards = moving_shards(tmp_path / "shards", 16)
    save_yaml(tmp_path / "tiny.yaml", tiny_model_config)
    words = ["--data.shards", str(shards), "--model", str(tmp_path / "tiny.yaml")]
    words += ["--data.batch_size", "2", "--workers", "0", "--data.shuffle_shards", "4"]
    words += ["--steps", str(STEPS), "--optimizer.warmup_steps", "2", "--precision", "32-true"]
    words += ["--optimizer.learning_rate", "0.2"]  # 3e-3 at 4 clips
    words += ["--device", "cpu", "--hardware.strategy", "zero2"]
    words += ["--log.log_every", "1", "--log.pictures_every", "0", "--log.checkpoint_every", "1000"]
    return [*words, "--wandb.mode", "offline", "--hardware.timeout_seconds", "120"]


def found_by(
    cluster: Cluster, folder: Path, repository: Path, program: str = f"{sys.executable} -m hicmae"
) -> dict[str, str]:
    """Variables with which jobs find the command."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "hicmae").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    (programs / "hicmae").chmod(0o755)
    return {
        "PATH": f"{programs}:{cluster.environment['PATH']}",
        "PYTHONPATH": str(repository),
        # Both nodes are this machine, whatever they are called.
        "MASTER_ADDR": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
    }


@pytest.mark.slow
def test_one_run_of_several_processes_or_several_of_one_is_what_the_step_says(
    cluster: Cluster, program: str, command: list[str], tmp_path: Path, repository: Path
) -> None:
    """In an allocation whose job wishes for two tasks on each of two nodes.

    Two steps side by side on one port of a machine, each on one node of two; a step of one task;
    a shell without srun; a port that is taken; and an array of single tasks.
    """
    environment = found_by(cluster, tmp_path, repository, program)
    out = tmp_path / "runs"
    words = " ".join(["hicmae pretrain", *command, "--steps 2 --wandb.mode disabled"])
    # It says what it is, and ends, since the folder is a file.
    lone = f"{words} --hardware.strategy auto --out {tmp_path}/tiny.yaml"
    words += " --hardware.strategy ddp"
    script = tmp_path / "steps.sh"
    with socket.create_server(("", 0)) as taken:
        script.write_text(
            f"""cd {tmp_path}
            srun -N1 -n2 --overlap {words} --out {out}/A >A.log 2>&1 &
            srun -N1 -n2 --overlap {words} --seed 1 --out {out}/B >B.log 2>&1 &
            wait
            srun -N1 -n1 --overlap {lone} >one.log 2>&1 &
            {lone} >shell.log 2>&1 &
            MASTER_PORT={taken.getsockname()[1]} srun -N1 -n2 --overlap {words} \\
                --hardware.timeout_seconds 3 --out {out}/C >C.log 2>&1 &
            srun -N2 -n2 --overlap bash -c '{words} --out {out}/D-$SLURM_PROCID' >D.log 2>&1 &
            wait
            """
        )
        array = cluster.call(
            *("sbatch", "--parsable", "--array=3", "-n1", "--gpus-per-node=0"),
            *(f"--output={tmp_path}/array-%a.log", "--wrap", lone),
            environment=environment,
        ).strip()
        cluster.call(
            *("salloc", "-N2", "--ntasks-per-node=2", "bash", str(script)),
            environment=environment,
            seconds=480,
        )
    cluster.wait_for_end(array, seconds=240)
    said = {
        name: (tmp_path / f"{name}.log").read_text()
        for name in ("A", "B", "C", "D", "one", "shell", "array-3")
    }
    for number, name in enumerate("AB"):
        first = said[name].splitlines()[0]
        assert re.fullmatch(r"SLURM step \d+\.\d+: one run of 2 processes on this node", first), (
            said
        )
        assert said[name].count("pretrained 2 steps") == 1, said[name]
        # 16 clips, of which two processes take 2 each.
        assert "to step 2 of 4 clips" in said[name]
        assert [row["step"] for row in rows_of(out / name)] == ["1", "2"]
        assert load_checkpoint(out / name).config["pretraining"]["seed"] == number
    for name in ("one", "shell", "array-3"):
        assert "is a file" in said[name]
    assert ", outside srun: a run of its own, of 1 process\n" in said["array-3"]
    assert ", of one task: a run of its own, of 1 process\n" in said["one"]
    assert "outside srun: a run of its own, of 1 process; srun makes one run of" in said["shell"]
    assert said["C"].count("MASTER_PORT = ") == 1
    assert "process 1 of 2 found no first process" in said["C"]
    assert said["D"].count("its 2 tasks are one run, and have 2 run folders") == 2
    assert sorted(path.name for path in out.iterdir()) == ["A", "B"], "refused, and nothing made"
    for text in said.values():
        assert "Traceback" not in text, text


@pytest.mark.slow
def test_a_preempted_job_on_two_nodes_goes_on_and_ends_with_the_same_weights(
    cluster: Cluster,
    command: list[str],
    tmp_path: Path,
    repository: Path,
    tiny_model_config: ModelConfig,
) -> None:
    environment = found_by(cluster, tmp_path, repository)
    options = ["--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1"]
    options += ["--time=30", f"--output={tmp_path}/%j.log", f"--chdir={tmp_path}"]
    script = tmp_path / "job.sbatch"
    text = (repository / SCRIPTS[1]).read_text(encoding="utf-8")
    words = " ".join([*command, "--out"])
    script.write_text(text.replace('hicmae pretrain "$@"', f'hicmae pretrain {words} "$RUN"'))

    def submit(out: Path) -> str:
        return cluster.submit(script, *options, environment={**environment, "RUN": str(out)})

    def said(job: str) -> str:
        log = tmp_path / f"{job}.log"
        return log.read_text() if log.exists() else ""

    live = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED")
    broken = tmp_path / "broken"
    job = submit(broken)
    deadline = time.monotonic() + 120
    while len(rows_of(broken)) < 3:
        assert cluster.job(job)["JobState"] in live, said(job)
        assert time.monotonic() < deadline, said(job)
        time.sleep(0.1)
    cluster.call("scancel", "--signal=USR1", "--batch", job)
    # The run to compare with, of two processes without SLURM, has the time until the other one is
    # started again.
    whole, runs = tmp_path / "whole", Runs(tmp_path, repository, tiny_model_config, tmp_path)
    runs.options = command
    undisturbed = runs.start_two("whole")
    while cluster.job(job).get("Restarts") != "1":
        assert cluster.job(job)["JobState"] in live, said(job)
        assert time.monotonic() < deadline, said(job)
        time.sleep(0.1)
    stopped = len(rows_of(broken))
    assert 3 <= stopped < STEPS, "the signal came too late to interrupt anything"
    # SLURM lets two minutes pass before a requeued job starts again: its nodes take the new start
    # for the one that was ended, where both are of the same second. A few seconds will do.
    while cluster.job(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETED"):
        time.sleep(0.1)
    cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now+4")
    ended = cluster.wait_for_end(job, seconds=480)

    log = said(job)
    assert ended["JobState"] == "COMPLETED", f"{log}\n{cluster.log()}"
    assert "start 1" in log
    assert "start 2" in log
    assert f"stopped by SIGUSR1 after step {stopped} of {STEPS}" in log
    assert log.count("back into the queue") == 1
    assert f"from step {stopped} to step {STEPS}" in log

    for process in undisturbed:
        process.end()
    assert load_checkpoint(broken).config["step"] == STEPS
    assert load_checkpoint(whole).config["step"] == STEPS
    assert_same_weights(broken, whole)
    same = ("step", "clips", "loss", "gradient_norm", "learning_rate")
    for one, other in zip(rows_of(whole), rows_of(broken), strict=True):
        assert [one[name] for name in same] == [other[name] for name in same]
    # Two starts, one run of W&B.
    files = sorted(broken.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    for file in files:
        wait_for_end(file)
    assert len({run_record(file)[0].run_id for file in files}) == 1


@pytest.mark.slow
def test_folds_side_by_side_are_collected(
    cluster: Cluster, tmp_path: Path, repository: Path
) -> None:
    """The script's own part, with a stand-in for the command that leaves what it would leave."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "hicmae").write_text(
        "#!/bin/bash\n"
        'echo "$@" >>"$CALLS"\n'
        "while (($#)); do\n"
        "  case $1 in --out) out=$2 ;; --folds) fold=$2 ;; esac\n"
        "  shift\n"
        "done\n"
        'if [[ -n ${fold:-} ]]; then mkdir -p "$out/fold-$fold"; echo "$fold" '
        '>"$out/fold-$fold/done"; fi\n'
    )
    (programs / "hicmae").chmod(0o755)
    calls = tmp_path / "calls"
    environment = {
        "PATH": f"{programs}:{cluster.environment['PATH']}",
        "CALLS": str(calls),
    }
    options = ["--gpus-per-node=0", "--cpus-per-task=1", f"--output={tmp_path}/%A_%a.log"]
    out = tmp_path / "sweep"
    words = ["--benchmark", "some", "--out", str(out)]
    script = repository / SCRIPTS[2]
    sent = ["sbatch", "--parsable", *options]
    array = cluster.call(*sent, "--array=1-3", str(script), *words, environment=environment).strip()
    pooling = cluster.call(
        *sent, f"--dependency=afterany:{array}", str(script), *words, environment=environment
    ).strip()
    assert cluster.wait_for_end(pooling, seconds=240)["JobState"] == "COMPLETED"
    assert sorted(path.name for path in out.iterdir()) == ["fold-1", "fold-2", "fold-3"]
    assert not list(tmp_path.glob("sweep.fold-*"))
    lines = calls.read_text().splitlines()
    assert len(lines) == 4
    assert lines[-1] == f"finetune --benchmark some --out {out} --resume"
    assert f"finetune --benchmark some --out {out}.fold-2 --folds 2 --resume" in lines
    assert [path.name for path in (out / "fold-2").iterdir()] == ["done"]
