"""Language models: load, encode, train. The only package (with the demo's generator) that imports transformers, peft."""

import warnings

# PEFT 0.21 still asks transformers by the old name; nothing that a user could mend.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
