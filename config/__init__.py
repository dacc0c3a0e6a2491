"""Configurations that ship with sftcore: start from `package:sftcore_config/finetune.yaml`."""
