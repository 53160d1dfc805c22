"""Train: the models of a round."""
