"""Weights and files: model folders, Megatron and Hugging Face checkpoints."""

from retrolit.checkpoint.model_folder import load_model, save_model

__all__ = ["load_model", "save_model"]
