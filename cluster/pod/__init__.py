"""Programs that run on pods. `deadman.sh` is part of the request for a pod; the others are uploaded over ssh."""
