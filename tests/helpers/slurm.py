"""A real SLURM of one node on this machine: munged, slurmctld and slurmd with a configuration of their own.

They run in the foreground as children of the test, keep all files in a folder of theirs, and listen on free ports of
loopback. The node claims more processors than there are. Without the tools the test is left out, see `missing`.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.helpers.browser import missing

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo")
CPUS = 4
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_START = 30.0
_CONFIG = """
ClusterName=hybridgen
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=small Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextmanager
def slurm() -> Iterator[dict[str, str]]:
    """Runs a cluster; yields the variables of the environment that lead to it."""
    for name in PROGRAMS:
        if shutil.which(name, path=_PATH) is None:
            missing(f"{name} is not installed")
    # Not pytest's folder: munge's socket wants one whose parents all users may pass.
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "spool").mkdir()
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o600)
        ports = {"controller": _free_port(), "node": _free_port()}
        host = socket.gethostname().split(".")[0]
        config = _CONFIG.format(host=host, user=getpass.getuser(), folder=folder, cpus=CPUS, **ports)
        (folder / "slurm.conf").write_text(config, encoding="utf-8")
        environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _PATH}
        munge = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        _start(stack, folder, environment, "munged", "--foreground", f"--socket={folder}/munge.socket", *munge)
        _wait((folder / "munge.socket").exists, folder)
        _start(stack, folder, environment, "slurmctld", "-D", "-c")
        _start(stack, folder, environment, "slurmd", "-D")
        _wait(lambda: _output(environment, "sinfo", "--noheader", "--format=%T").strip() == "idle", folder)
        yield environment


def _start(stack: ExitStack, folder: Path, environment: dict[str, str], *command: str) -> None:
    with open(folder / f"{command[0]}.out", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment}, cwd=folder)

    def end() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


def _wait(is_so, folder: Path) -> None:
    until = time.monotonic() + _START
    while not is_so():
        if time.monotonic() > until:
            said = "\n".join(f"{one.name}: {one.read_text()[-1000:]}" for one in folder.glob("*.out"))
            raise RuntimeError(f"SLURM does not start here:\n{said}")
        time.sleep(0.1)


def _output(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    ).stdout


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
