"""What `python -m rainbow_ray.tune` searches: a function for each phase, which asks Optuna for one value after another.

A name that is asked for is a key of the config; what the function returns is set for all trials alike. Lists travel
as strings: `"256,128"`.
"""
