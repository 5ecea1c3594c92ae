"""A file of stages on an engine that is there already: processes of this machine, a Ray cluster, Slurm."""
