"""Progress and logs, on standard error; standard output is for results."""

from rich.console import Console

console = Console(stderr=True)
