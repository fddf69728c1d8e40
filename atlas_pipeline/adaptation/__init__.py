"""The agent in operation: trading on paper, replay, LoRA adapters, the online update and the promotion gate."""
