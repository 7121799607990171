"""Is a bundle the one that was exported, and are its vectors PyTorch's? And what changes with another bundle?"""
