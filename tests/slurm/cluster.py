"""A real SLURM on this machine: three slurmd, two fake GPUs each, munge, and on request slurmdbd with MariaDB.

Everything lives in one private folder on ports of its own. The daemons run in the foreground as children of this
process, and die with it whatever happens to it (setpriv --pdeathsig).
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")  # named by addresses, so that the first one's name resolves
PROGRAMS = ("slurmctld", "slurmd", "munged", "setpriv")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd")
INSTALL = "apt-get install slurm-wlm munge"
INSTALL_ACCOUNTING = f"{INSTALL} slurmdbd slurm-wlm-mysql-plugin mariadb-server-core"
SBIN = "/usr/sbin:/sbin"


def find_missing(programs: Sequence[str]) -> list[str]:
    return [program for program in programs if shutil.which(program, path=f"{os.environ['PATH']}:{SBIN}") is None]


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The condition's value once it is true. Raises: TimeoutError naming what was awaited."""
    deadline, pause = time.monotonic() + seconds, 0.05
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(pause)
        pause = min(0.5, 1.5 * pause)  # asking SLURM costs what the jobs need
    return value


class Cluster:
    """One cluster, between `start` and `stop`."""

    def __init__(self, accounting: bool = False, settings: str = "") -> None:
        """`settings` are further lines of slurm.conf; with them, or with accounting, ended jobs are forgotten soon."""
        self.accounting, self.settings = accounting, settings
        self.base = Path(tempfile.mkdtemp(prefix="aaebench-slurm-"))  # short: a socket's path has at most 107 letters
        self.base.chmod(0o755)
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = free_ports(len(NODES) + 2)
        self.environment = os.environ | {
            "PATH": f"{os.environ['PATH']}:{SBIN}",
            "SLURM_CONF": str(self.base / "slurm.conf"),
            "SLURM_TIME_FORMAT": "%s",
        }

    def start(self) -> None:
        for name in ("state", "dev", "log", *(f"spool-{node}" for node in NODES)):
            (self.base / name).mkdir()
        key = self.base / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self._run(
            "munged",
            "--foreground",
            "--force",
            *(f"--{name}-file={self.base}/{file}" for name, file in MUNGE),
            f"--socket={self.base}/munge.sock",
        )
        self._await("munge", "--no-input", f"--socket={self.base}/munge.sock")
        (self.base / "slurm.conf").write_text(self._configuration())
        (self.base / "gres.conf").write_text(
            f"AutoDetect=off\nNodeName={','.join(NODES)} Name=gpu File={self.base}/dev/gpu[0-1]\n"
        )
        (self.base / "cgroup.conf").write_text("CgroupAutomount=no\n")
        for index in range(2):
            (self.base / f"dev/gpu{index}").symlink_to("/dev/null")
        if self.accounting:
            self._start_accounting()
        self._run("slurmctld", "-D", "-i")
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self.output("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split() == list(NODES), 60, "nodes")

    def start_node(self, node: str) -> None:
        self._run("slurmd", "-D", "-N", node, name=f"slurmd-{node}")

    def stop(self) -> None:
        """Jobs first: a slurmstepd whose slurmd is gone would stay for ever."""
        try:
            if "slurmctld" in self.daemons:
                for node in NODES:
                    if self.daemons[f"slurmd-{node}"].poll() is not None:
                        self.start_node(node)
                self.output("scancel", "--full", "--user", getpass.getuser())
                self.output("scancel", "--full", "--signal=KILL", "--user", getpass.getuser())
                wait_for(lambda: not self.output("squeue", "-h"), 60, "an empty queue")
        finally:
            for daemon in reversed(self.daemons.values()):
                daemon.terminate()
                try:
                    daemon.wait(15)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            shutil.rmtree(self.base, ignore_errors=True)

    def output(self, *command: str) -> str:
        """What a SLURM command prints; nothing if it fails."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout.strip()

    def _await(self, *command: str) -> None:
        def succeeds() -> bool:
            return not subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode

        wait_for(succeeds, 60, command[0])

    def _run(self, program: str, *arguments: str, name: str = "", **extra: str) -> None:
        name = name or program
        with (self.base / "log" / f"{name}.txt").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | extra,
                start_new_session=True,
            )

    def _configuration(self) -> str:
        user, (controller, database, *nodes) = getpass.getuser(), self.ports
        lines = f"""
ClusterName=tests
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={self.base}/munge.sock
StateSaveLocation={self.base}/state
SlurmdSpoolDir={self.base}/spool-%n
SlurmctldPidFile={self.base}/slurmctld.pid
SlurmdPidFile={self.base}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge={5 if self.accounting or self.settings else 3600}
SlurmdTimeout=10
MessageTimeout=10
TreeWidth=65533
GresTypes=gpu
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=5 State=UP
{self.settings}
"""
        if self.accounting:
            lines += f"""
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={database}
AccountingStoragePass={self.base}/munge.sock
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits
"""
        for node, port in zip(NODES, nodes, strict=True):
            lines += (
                f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=16000 "
                "Gres=gpu:2 State=UNKNOWN\n"
            )
        return lines

    def _start_accounting(self) -> None:
        data, shared, user = self.base / "database", Path("/usr/share/mysql"), getpass.getuser()
        data.mkdir()
        options = (
            *("--no-defaults", f"--datadir={data}", f"--user={user}", "--innodb-buffer-pool-size=32M"),
            *("--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"),
        )
        tables = "".join((shared / f"mysql_system_tables{part}.sql").read_text() for part in ("", "_data"))
        subprocess.run(
            ["mariadbd", *options, "--bootstrap"],
            input=f"create database mysql;\nuse mysql;\n{tables}\ncreate database slurm_acct_db;\n",
            text=True,
            capture_output=True,
            env=self.environment,
            check=True,
        )
        self._run("mariadbd", *options, "--skip-grant-tables", "--skip-networking", f"--socket={self.base}/mysql.sock")
        wait_for((self.base / "mysql.sock").exists, 60, "mariadbd")
        configuration = self.base / "slurmdbd.conf"
        configuration.touch(0o600)
        configuration.write_text(f"""
AuthType=auth/munge
AuthInfo=socket={self.base}/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={self.ports[1]}
SlurmUser={user}
LogFile={self.base}/log/slurmdbd.log
PidFile={self.base}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
StorageLoc=slurm_acct_db
""")
        self._run("slurmdbd", "-D", MYSQL_UNIX_PORT=str(self.base / "mysql.sock"))
        wait_for(lambda: _listens(self.ports[1]), 60, "slurmdbd")
        for words in (("cluster", "tests"), ("account", "physics"), ("user", user, "account=physics")):
            self._await("sacctmgr", "--immediate", "--quiet", "add", *words)


MUNGE = (("key", "munge.key"), ("pid", "munged.pid"), ("log", "log/munged.log"), ("seed", "munge.seed"))


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
