"""Chat templates that ship with sftcore: every file here is a template, named by its stem."""
