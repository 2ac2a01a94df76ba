#!/usr/bin/env bash
# One expects a row of several texts with position_ids that begin again at 0 for each text to give each text the logits
# that it has alone: transformers builds the mask of such packed rows from the positions, without a word of the user.
#
# In a direct call, model(input_ids=..., position_ids=...), the texts see each other instead, in eval() as in train(),
# because use_cache is True by default and the mask is only built where no cache is made. Nothing is said. With
# use_cache=False the logits are those of the texts alone. transformers 5.23.0, torch 2.13.0, seen on 2026-11-29.
#
# It matters to people who curate data: packing is how losses and gradients of many samples are measured in a script of
# one's own, and a score that depends on the neighbour in the row orders samples wrongly without an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0

cat > "$folder/pack.py" <<'PY'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

SIZES = dict(
    vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=128, initializer_range=0.12,
)
texts = [torch.arange(3, 3 + n)[None] % 128 for n in (9, 14, 5)]
packed = torch.cat(texts, dim=1)
positions = torch.cat([torch.arange(text.shape[1]) for text in texts])[None]


def error(model: torch.nn.Module, **options: bool) -> float:
    with torch.no_grad():
        alone = torch.cat([model(input_ids=text).logits for text in texts], dim=1)
        together = model(input_ids=packed, position_ids=positions, **options).logits
    return float((alone - together).abs().max())


seen = []
for config, kind in ((LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)):
    torch.manual_seed(0)
    for training in (False, True):
        model = kind(config(**SIZES)).train(training)
        default, without = error(model), error(model, use_cache=False)
        print(f"{kind.__name__}, train({training}): largest difference {default:.2g} by default, {without:.2g} with use_cache=False")
        seen.append(default > 0.01 and without < 1e-4)
sys.exit(not all(seen) and "transformers does something else now")
PY
"$folder/venv/bin/python" "$folder/pack.py"
