"""Language models: load, encode, train. With the demo's generator the only package that imports transformers, peft."""

import logging
import warnings

# PEFT 0.21 still asks transformers by the old name; nothing that a user could mend.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it warns of a kernel that 4 bits would want
