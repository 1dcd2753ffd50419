"""The logs of one run: its processes' in its folder, and those of the job that ran it last."""

from pathlib import Path

from harness.errors import InputError, unknown
from harness.record import find_run_folders
from slurm.submission import load_submissions


def print_logs(run: str, out: Path, lines: int) -> None:
    """Raises: InputError if no run under `out`, or more than one, answers to that name."""
    folder = _find(run, out)
    files = sorted(folder.glob("log*.txt"))
    for name in sorted({path.parent.parent.name for path in (out / "sweeps").glob("*/*/submission.json")}):
        for submission in reversed(load_submissions(out, name)):
            jobs = [job_id for job_id, run_ids in submission.jobs.items() if folder.name in run_ids]
            found = [file for job_id in jobs for file in sorted(submission.logs.glob(f"{job_id}_*_log.*"))]
            if found:
                files += found
                break
    if not files:
        raise InputError(f"{folder} has no log yet")
    for file in files:
        text = file.read_text(errors="replace").splitlines()
        print("\n".join([f"==> {file} <==", *text[-lines if lines else 0 :]]))


def _find(run: str, out: Path) -> Path:
    folders = {folder.path.name: folder.path for folder in find_run_folders(out)} if out.is_dir() else {}
    if run in folders:
        return folders[run]
    matching = [name for name in folders if run in name]
    if not matching:
        raise InputError(f"{out}: {unknown('run', run, folders)}")
    if len(matching) > 1:
        raise InputError(f"{out}: {len(matching)} runs have {run!r} in their names: {', '.join(sorted(matching)[:5])}")
    return folders[matching[0]]
