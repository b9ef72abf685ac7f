"""How many workers, cores, nodes and hours a load needs: by queueing models over measured figures."""
