"""What a run keeps: its folder, checkpoints, and the trained model."""
