"""Chat templates; the files beside this one."""
