"""Rented pods of RunPod as one Ray cluster, and back: `python -m cluster`."""

from rainbow_ray.utils.signals import exit_on_signal, is_command

if is_command("cluster") and not is_command("cluster.pod"):  # what runs on pods handles signals itself
    exit_on_signal()
