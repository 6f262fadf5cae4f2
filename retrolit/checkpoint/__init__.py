"""Weights and files: model folders, Megatron and Hugging Face checkpoints."""
