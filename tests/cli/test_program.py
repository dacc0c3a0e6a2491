"""How a process ends."""

from __future__ import annotations

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
def test_a_rank_ends_with_its_own_code_whatever_its_process_group_still_does(nursery, tmp_path, end, code, said):
    script = tmp_path / "rank.py"
    script.write_text(LEFT_IN_FLIGHT.format(end=end))
    assert nursery.run_program(script, folder=tmp_path, ranks=2) == [code, code]
    for rank in (0, 1):
        output = (tmp_path / f"log-{rank}.txt").read_text()
        assert "terminate called" not in output
        assert said in output
