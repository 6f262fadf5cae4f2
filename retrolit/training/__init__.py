"""What trains a model: the folder that knows Lightning."""
