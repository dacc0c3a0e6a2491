"""The process that runs sftcore: its terminal, secrets, files, signals, and the launcher that started it.

Texts, paths and signals go in; lines of status, redacted text and requests to stop come out.
Knows neither configuration nor models: everything above may use it, and it stays cheap to import.
"""
