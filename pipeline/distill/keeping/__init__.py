"""What a training leaves on disk: checkpoints, logs, the finished model."""
