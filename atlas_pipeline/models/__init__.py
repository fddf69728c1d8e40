"""Networks only: embeddings, backbones and heads; how they are trained is `training`."""
