"""The built-in plugins. They use the public API only, like those of any other package."""
