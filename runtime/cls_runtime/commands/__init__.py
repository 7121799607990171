"""The runtime's commands: arguments and printing only. `cls-export` is in `cls_exporter.command`."""
