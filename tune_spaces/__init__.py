"""Search spaces of `python -m rainbow_ray.tune`: one function per phase, which suggests values through an Optuna trial.

The name of a suggested parameter is a key of the config. A dictionary that the function returns is set for all trials.
Lists are written as strings: `"256,128"`.
"""
