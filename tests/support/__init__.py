"""What tests share: real processes, a run in one process, the reference, pieces of each kind, wrong inputs."""
