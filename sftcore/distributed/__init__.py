"""The processes (ranks) of a run: collectives on the CPU, and a watchdog against ranks that hang or are gone.

In: torch.distributed, as a backend has set it up. Out: values of all ranks, actions and errors they agree on.
It must not know what is trained, saved or printed.
"""
