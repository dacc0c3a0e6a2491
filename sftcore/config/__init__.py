"""The configuration: from YAML with the line of every key to checked dataclasses and components.

In: a YAML file, ``KEY=VALUE`` overrides and the registry of plugins. Out: a :class:`LoadedConfig`, or one error with
file and line. It must not know data, models or training, and loads neither numpy nor jinja2.
"""
