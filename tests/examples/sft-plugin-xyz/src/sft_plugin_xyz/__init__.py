"""The hooks: names only, so that `sft list-plugins` stays fast."""

from sftcore import hookimpl


@hookimpl
def register_formats() -> dict[str, str]:
    """Return the formats of this package."""
    return {"xyz": "sft_plugin_xyz.xyz:XYZ"}
