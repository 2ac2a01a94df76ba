"""Language models: load, encode, train. With the demo's generator the only package that imports transformers, peft."""

import warnings

# PEFT 0.21 still asks transformers by the old name; nothing that a user could mend.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
