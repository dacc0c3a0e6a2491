"""The command line: one module per command; ``add_arguments`` adds its arguments to a parser, ``execute`` runs it.

In: the words of a command line. Out: an exit code, and text on the terminal. It must not do the work of a command, only
call for it; ``--help`` and ``list-plugins`` import nothing heavy and no component.
"""
