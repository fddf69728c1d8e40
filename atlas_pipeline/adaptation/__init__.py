"""The agent in operation: paper trading, replay, LoRA adapters, the online update and the promotion gate."""
