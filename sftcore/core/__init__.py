"""The kernel: base classes of the components, the hooks and registry of plugins, messages, errors.

In: installed distributions, their hook modules and template files. Out: entries by kind and name, and their classes.
It must not know any component, configuration file or third-party package but pluggy; at most 1,000 lines in all.
"""
