"""The plugins that ship with sftcore; they use the public API only, as any other package would."""
