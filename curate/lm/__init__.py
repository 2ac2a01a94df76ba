"""Load language models, encode samples to tokens, and evaluate models.

Model code and tokenizer code that needs transformers or peft belongs in this package.
"""

import logging
import warnings

# PEFT 0.21 still calls transformers by the deprecated name. A user cannot fix this, so the warning is not shown.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
# A GGUF file has no config.json, where PEFT looks whether the vocabulary has grown. curate never changes it.
warnings.filterwarnings("ignore", message="Could not find a config file in")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it warns about a missing 4-bit kernel
