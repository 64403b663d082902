"""Ray clusters on rented RunPod pods: `python -m cluster`."""

from rainbow_ray.utils.signals import exit_on_signal, is_command

if is_command("cluster") and not is_command("cluster.pod"):  # the programs on pods handle signals themselves
    exit_on_signal()
