"""The cluster against a fake RunPod: real HTTP, real processes."""
