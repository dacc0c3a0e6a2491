"""The hooks: names only, so that `sft list-plugins` stays fast."""

from sftcore import FormatSpec, hookimpl


@hookimpl
def register_formats() -> dict[str, FormatSpec]:
    """Return the formats of this package."""
    return {"xyz": FormatSpec("sft_plugin_xyz.xyz:XYZ", keys=["x", "y", "z"])}
