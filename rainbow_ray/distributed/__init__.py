"""Ray clusters, resources, process groups and actor pools."""
