"""The HTTP service: its API, access control, and deployment on Ray Serve."""
