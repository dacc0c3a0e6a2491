"""Start-up time of the command line, as a multiple of that of a bare Python interpreter.

The goal is at most 10 x for ``--help`` and ``list-plugins``.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 11
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "sft --help": ["-m", "sftcore", "--help"],
    "sft list-plugins": ["-m", "sftcore", "list-plugins"],
    "sft run --help": ["-m", "sftcore", "run", "--help"],
}


def seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        seconds(arguments)  # warm-up: files are cached and compiled
    for _ in range(RUNS):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    bare = statistics.median(times["python -c pass"])
    print(f"{'command':<20} {'median ms':>10} {'x bare python':>14}")
    for name, runs in times.items():
        median = statistics.median(runs)
        print(f"{name:<20} {median * 1000:>10.0f} {median / bare:>14.1f}")


if __name__ == "__main__":
    main()
