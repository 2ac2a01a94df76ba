"""Models in GGUF files: find the file, check its header, and let transformers read it from there."""
