"""`ecstfl infer`: faces and their expressions in media, and predictions for path files."""
