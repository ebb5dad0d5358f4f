"""Losses: modules called as `loss(logits, features, target, batch)`; an objective is their weighted sum."""
