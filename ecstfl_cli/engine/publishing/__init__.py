"""`ecstfl checkpoints publish`: a trained model made ready for others."""
