"""How a process ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LEFT_IN_FLIGHT = """
import sys, torch, torch.distributed
import sftcore.__main__ as program

def main():
    torch.distributed.init_process_group("gloo")
    for _ in range(20):
        torch.distributed.all_reduce(torch.ones(200_000), async_op=True)
    print("said", flush=False)
    {end}

program.main = main
program.program()
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [("return 0", 0, "said"), ("sys.exit(3)", 3, "said"), ("raise ValueError('mine')", 1, "ValueError: mine")],
)
def test_a_rank_ends_with_its_own_code_whatever_its_process_group_still_does(tmp_path, end, code, said):
    script = tmp_path / "rank.py"
    script.write_text(LEFT_IN_FLIGHT.format(end=end))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120, check=False
    )
    assert "terminate called" not in done.stderr
    assert (done.returncode == 0) == (code == 0)
    assert said in done.stdout + done.stderr
    if code:
        assert f"exitcode  : {code} " in done.stderr
