"""A private SLURM on one machine: munged, slurmctld and several slurmd under one temporary directory.

From Debian's packages ``slurmctld slurmd slurm-client munge``; own ports, own keys, no systemd, no cgroups, no
database, nothing written outside the directory. GPUs are fake: character devices that exist everywhere.

By hand::

    python tests/cluster/slurm_cluster.py start /tmp/slurm      # prints the line to source
    python tests/cluster/slurm_cluster.py stop /tmp/slurm
"""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
NODES = ("n1", "n2", "n3")  # n1 has two fake GPUs
PATIENCE = 4  # longest waits are those of a quiet machine times this
SLURM_CONF = """\
ClusterName=sluicetest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=15
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.slurm-pid
SlurmdPidFile={root}/slurmd.%n.slurm-pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,sched_min_interval=0,bf_interval=2,batch_sched_delay=0
SlurmdTimeout=10
SlurmctldTimeout=30
MessageTimeout=10
InactiveLimit=0
EnforcePartLimits=ALL
KillWait=3
OverTimeLimit=0
MinJobAge=300
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
GresTypes=gpu
DefMemPerCPU=100
NodeName=DEFAULT CPUs=4 RealMemory=16000 State=UNKNOWN
{nodes}
PartitionName=cpu Nodes={all_nodes} Default=YES MaxTime=2880 DefaultTime=5 State=UP
PartitionName=gpu Nodes=n1 MaxTime=2880 DefaultTime=5 State=UP
"""


def missing_programs() -> list[str]:
    """Programs of SLURM and munge that are not on PATH (``/usr/sbin`` included)."""
    return [name for name in PROGRAMS if _which(name) is None]


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _program(name: str) -> str:
    found = _which(name)
    if found is None:
        raise FileNotFoundError(f"{name} not found: apt-get install slurmctld slurmd slurm-client munge")
    return found


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition; TimeoutError naming it otherwise."""
    deadline = time.monotonic() + PATIENCE * seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)


class SlurmCluster:
    """Starts, breaks and stops the daemons; every process is known by the pid file that this class wrote."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = socket.gethostname().split(".")[0]
        self._children: list[subprocess.Popen[bytes]] = []
        self._controller_starts, self._first_job_id = 0, 1

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make SLURM's commands talk to this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.root / "slurm.conf")}

    def start(self) -> None:
        """Write the configuration and bring everything up; takes about a second."""
        for name in ("log", "state", "spool", "pids"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        if not (self.root / "slurm.conf").exists():
            self._write_configuration()
        socket_path = self.root / "munge.socket"
        if not self.alive("munged"):
            self._spawn(
                "munged",
                "--foreground",
                "--force",
                f"--key-file={self.root}/munge.key",
                f"--socket={socket_path}",
                f"--pid-file={self.root}/munged.munge-pid",
                f"--log-file={self.root}/log/munged.log",
                f"--seed-file={self.root}/munge.seed",
            )
        wait_until(lambda: self._munge_answers(socket_path), 10, "munged answers")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.nodes_up() == len(NODES), 30, f"all nodes up (logs in {self.root}/log)")

    def _write_configuration(self) -> None:
        ports = _free_ports(1 + len(NODES))
        lines = [
            f"NodeName={node} NodeHostname={self.host} NodeAddr=127.0.0.1 Port={port}"
            + (" Gres=gpu:fake:2" if node == "n1" else "")
            for node, port in zip(NODES, ports[1:], strict=True)
        ]
        text = SLURM_CONF.format(
            root=self.root,
            host=self.host,
            user=getpass.getuser(),
            controller_port=ports[0],
            nodes="\n".join(lines),
            all_nodes=",".join(NODES),
        )
        (self.root / "slurm.conf").write_text(text)
        (self.root / "gres.conf").write_text(
            "NodeName=n1 Name=gpu Type=fake File=/dev/null Flags=nvidia_gpu_env\n"
            "NodeName=n1 Name=gpu Type=fake File=/dev/zero Flags=nvidia_gpu_env\n"
        )
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = self.root / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))

    def _munge_answers(self, path: Path) -> bool:
        command = [_program("munge"), "-S", str(path), "-n"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _spawn(self, program: str, *arguments: str, name: str | None = None) -> None:
        name = name or program
        with (self.root / "log" / f"{name}.out").open("a") as output:
            process = subprocess.Popen(
                [_program(program), *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=self.root,
            )
        self._children.append(process)
        started = psutil.Process(process.pid).create_time()
        (self.root / "pids" / name).write_text(f"{process.pid} {started}")

    def process(self, name: str) -> psutil.Process | None:
        """The living daemon of that name (``munged``, ``slurmctld``, ``slurmd.n1`` …)."""
        try:
            pid, started = (self.root / "pids" / name).read_text().split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(started)) > 1 or process.status() == psutil.STATUS_ZOMBIE:
                return None
            return process
        except (OSError, ValueError, psutil.Error):
            return None

    def alive(self, name: str) -> bool:
        """Whether that daemon runs."""
        return self.process(name) is not None

    def start_controller(self, *, forget_jobs: bool = False) -> None:
        """Start slurmctld; with ``forget_jobs`` it comes up without its saved state."""
        if not self.alive("slurmctld"):
            self._spawn("slurmctld", "-D", *(["-c"] if forget_jobs else []))
            self._controller_starts += 1
        wait_until(self.controller_answers, 30, "slurmctld answers")

    def kill_controller(self) -> None:
        """``kill -9`` of slurmctld."""
        self._kill("slurmctld")

    def controller_answers(self) -> bool:
        """Whether slurmctld answers a ping."""
        return "is UP" in self.run("scontrol", "ping").stdout

    def start_node(self, node: str) -> None:
        """Start one slurmd."""
        if not self.alive(f"slurmd.{node}"):
            (self.root / "spool" / node).mkdir(exist_ok=True)
            self._spawn("slurmd", "-D", "-N", node, name=f"slurmd.{node}")

    def kill_node(self, node: str) -> None:
        """What a power cut does: slurmd and everything that runs on the node die at once."""
        self._kill(f"slurmd.{node}")
        self._kill_steps(self.root / "spool" / node)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=power")

    def _kill(self, name: str) -> None:
        process = self.process(name)
        if process is not None:
            process.kill()
            with suppress(psutil.Error):
                process.wait(timeout=10)

    def _kill_steps(self, spool: Path) -> None:
        """Kill the slurmstepds that hold a socket under a spool directory, then all their descendants.

        In this order: a slurmstepd whose task dies first may still report that the job failed.
        """
        for process in psutil.process_iter(["name"]):
            if process.info["name"] != "slurmstepd":
                continue
            with suppress(psutil.Error):
                if any(c.laddr and str(c.laddr).startswith(f"{spool}/") for c in process.net_connections("unix")):
                    for one in [process, *process.children(recursive=True)]:
                        with suppress(psutil.Error):
                            one.kill()

    def nodes_up(self) -> int:
        """Number of nodes that can take jobs."""
        found = self.run("sinfo", "-h", "-N", "-p", "cpu", "-t", "idle,mix,alloc", "-o", "%N").stdout
        return len(set(found.split()))

    def run(self, *command: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run one of SLURM's commands on this cluster."""
        return subprocess.run(
            [_program(command[0]), *command[1:]],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def recover(self) -> None:
        """Bring back whatever a test broke and remove all jobs."""
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.run("scancel", "--user", getpass.getuser())
        for node in NODES:
            self.run("scontrol", "update", f"nodename={node}", "state=resume")
        wait_until(lambda: self.nodes_up() == len(NODES), 60, "all nodes up again")
        wait_until(lambda: not self.run("squeue", "-h").stdout.strip(), 60, "no jobs left")
        if self._controller_starts > 1:
            self._skip_job_ids()

    def _skip_job_ids(self) -> None:
        """Restart slurmctld beyond all ids that it may have given and forgotten: nodes refuse them a second time."""
        self._first_job_id += 1000
        conf = self.root / "slurm.conf"
        lines = [line for line in conf.read_text().splitlines() if not line.startswith("FirstJobId=")]
        conf.write_text("\n".join([f"FirstJobId={self._first_job_id}", *lines, ""]))
        self._end("slurmctld")
        self.start_controller()
        wait_until(lambda: self.nodes_up() == len(NODES), 60, "all nodes up again")
        self._controller_starts = 1

    def _end(self, name: str) -> None:
        """Ask a daemon to end; kill it if it does not."""
        process = self.process(name)
        if process is not None:
            process.send_signal(signal.SIGTERM)
            with suppress(psutil.Error):
                process.wait(timeout=5)
            self._kill(name)

    def stop(self) -> None:
        """Stop all daemons of this directory and what runs under them, then remove the directory."""
        if self.alive("slurmctld"):
            with suppress(subprocess.TimeoutExpired):
                self.run("scancel", "--user", getpass.getuser())
        for node in NODES:
            self._kill_steps(self.root / "spool" / node)
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld", "munged"):
            self._end(name)
        for child in self._children:
            child.wait(timeout=10)
        shutil.rmtree(self.root, ignore_errors=True)


def temporary_root() -> Path:
    """A short path: the names of UNIX sockets are limited to about 100 characters."""
    return Path(tempfile.mkdtemp(prefix="sluice-slurm-", dir="/tmp"))


def main() -> None:
    """Start or stop a cluster by hand."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("root", type=Path)
    arguments = parser.parse_args()
    cluster = SlurmCluster(arguments.root.absolute())
    if arguments.action == "start":
        cluster.start()
        print(f"export SLURM_CONF={cluster.root}/slurm.conf")
    else:
        cluster.stop()


if __name__ == "__main__":
    main()
