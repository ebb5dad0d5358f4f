"""Start-up time of the command line beside `import torch`: medians of whole processes, run in turn.

python benchmarks/startup.py [RUNS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "ecstfl --help": ["-m", "ecstfl_cli", "--help"],
    "ecstfl plugins": ["-m", "ecstfl_cli", "plugins"],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Print a table: median seconds, and the share of what `import torch` takes."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for arguments in COMMANDS.values():
        seconds(arguments)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name:<16} {value:6.3f} s   {value / median['import torch']:5.2f} of import torch")


if __name__ == "__main__":
    main()
