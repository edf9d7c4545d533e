"""A Slurm of our own on this machine: controller, node daemon and munge under one folder.

    python -m tests.cluster.local_slurm     # starts one and waits; Ctrl-C ends it

Nothing outside the folder is written, all ports are on the loopback interface, and what was
started is ended by process id. It does without cgroups, so that it also runs in containers.
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
PACKAGES = "slurmctld slurmd slurm-client munge"

# Partition `low` is preempted by `high` at once, `grace` after 60 seconds of grace.
_CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until its credentials have expired: two minutes unless told.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=30
ReturnToService=2
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=0 State=UP
PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=60 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


def missing_programs() -> list[str]:
    """Return the programs of Slurm and munge that this machine lacks."""
    return [name for name in PROGRAMS if _find(name) is None]


@dataclass(frozen=True)
class Slurm:
    """A running cluster.

    Attributes:
        environment: what a command such as sbatch needs to reach it.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str | Path, cwd: Path | None = None, **environment: str) -> str:
        """Run a command such as sbatch on this cluster; return what it prints."""
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """Return what `scontrol show job` says of a job."""
        shown = self.run("scontrol", "show", "job", job_id, "--oneliner")
        return dict(part.partition("=")[::2] for part in shown.split() if "=" in part)


@contextmanager
def local_slurm(folder: Path, nodes: int = 1) -> Iterator[Slurm]:
    """Start a cluster whose nodes are all this machine; end it on leaving.

    Args:
        folder: an existing folder, which all that Slurm writes goes to.
        nodes: how many nodes it pretends to be. Only the first one's name is a host's.
    """
    host = socket.gethostname()
    hosts = [host, *(f"{host}-{number}" for number in range(1, nodes))]
    folder.chmod(0o755)  # munge distrusts folders that others may write to
    for name in ("state", *(f"spool-{host}" for host in hosts)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    ports = _free_ports(1 + len(hosts))
    names, node_ports = ",".join(hosts), ",".join(map(str, ports[1:]))
    line = f"NodeName={names} NodeHostname=localhost NodeAddr=127.0.0.1 Port={node_ports} CPUs=4"
    config = folder / "slurm.conf"
    config.write_text(
        _CONFIG.format(folder=folder, user=getpass.getuser(), controller_port=ports[0], nodes=line)
    )
    slurm = Slurm(folder, {**os.environ, "SLURM_CONF": str(config)})
    munge = [f"--{name}={folder / f'munge.{name[:3]}'}" for name in ("seed-file", "log-file")]
    munge += [f"--pid-file={folder}/munge.pid", f"--key-file={key}"]
    daemons = [("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge)]
    daemons.append(("slurmctld", "-D", "-f", str(config)))
    daemons += [("slurmd", "-D", "-N", host, "-f", str(config)) for host in hosts]

    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, (program, *arguments) in enumerate(daemons):
            with (folder / f"{number}-{program}.log").open("wb") as log:
                command = [str(_find(program)), *arguments]
                processes.append(
                    subprocess.Popen(command, stdout=log, stderr=log, env=slurm.environment)
                )
            if program == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), processes, folder)
        _wait(lambda: _idle_nodes(slurm) == len(hosts), processes, folder)
        yield slurm
        subprocess.run(["scancel", "--user", getpass.getuser()], env=slurm.environment)
        _wait(lambda: not slurm.run("squeue", "--noheader"), processes, folder)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def _find(program: str) -> str | None:
    """Find a program; daemons lie in folders that are not on every user's path."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _free_ports(count: int) -> list[int]:
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def _idle_nodes(slurm: Slurm) -> int:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--partition=low", "--format=%T"],
        env=slurm.environment,
        capture_output=True,
        text=True,
    )
    return done.stdout.split().count("idle")


def _wait(condition, processes, folder: Path) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 60
    while not condition():
        logs = [path.read_text()[-2000:] for path in sorted(folder.glob("*.log"))]
        ended = any(process.poll() is not None for process in processes)
        assert not ended and time.monotonic() < deadline, "\n".join(logs)
        time.sleep(0.1)


if __name__ == "__main__":
    if missing := missing_programs():
        sys.exit(f"error: not found: {', '.join(missing)}; apt-get install {PACKAGES}")
    with (
        tempfile.TemporaryDirectory() as temporary,
        local_slurm(Path(temporary), nodes=2) as running,
    ):
        print(f"export SLURM_CONF={running.environment['SLURM_CONF']}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
