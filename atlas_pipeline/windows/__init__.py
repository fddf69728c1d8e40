"""Windows over feature tensors: panels, their index, scalers, folds with purge and embargo."""
