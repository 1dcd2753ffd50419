"""What the ranks of one job tell one another about its runs: by files, as all they surely share is the file system."""

import time
from dataclasses import dataclass
from pathlib import Path

FIRST_PORT, PORTS = 20000, 40000


@dataclass(frozen=True)
class Peers:
    """One rank among `world_size`. `folder` belongs to one launch of one job."""

    folder: Path
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    first_port: int

    def describe_rendezvous(self, nth_run: int) -> dict[str, str]:
        """The variables by which torch.distributed finds the other ranks; each run of a job meets at its own port."""
        port = FIRST_PORT + (self.first_port + nth_run) % PORTS
        return {
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(port),
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
        }

    def give_up(self, run_id: str, reason: str) -> None:
        """Tell the others that this rank will not go on with a run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{run_id}.{self.rank}"
        temporary.write_text(reason)
        temporary.replace(self._file(run_id, self.rank))

    def others_gave_up(self, run_id: str) -> bool:
        return any(self._file(run_id, rank).exists() for rank in range(self.world_size) if rank != self.rank)

    def collect_reasons(self, run_id: str, seconds: float) -> str:
        """Every rank's reason; ranks that are yet to end get so many seconds. One that was only stopped has none."""
        deadline = time.monotonic() + seconds
        files = [self._file(run_id, rank) for rank in range(self.world_size)]
        while not all(file.exists() for file in files) and time.monotonic() < deadline:
            time.sleep(0.2)
        reasons = {rank: file.read_text() for rank, file in enumerate(files) if file.exists()}
        distinct = {reason: rank for rank, reason in sorted(reasons.items(), reverse=True) if reason}
        return "; ".join(
            f"{reason} (rank {rank})" for reason, rank in sorted(distinct.items(), key=lambda item: item[1])
        )

    def _file(self, run_id: str, rank: int) -> Path:
        return self.folder / f"{run_id}.{rank}"
