"""What runs on pods. `deadman.sh` is sent with the request for a pod; the rest is pushed over ssh."""
