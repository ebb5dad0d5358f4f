"""`ecstfl finetune`: from a recipe to a run folder."""
