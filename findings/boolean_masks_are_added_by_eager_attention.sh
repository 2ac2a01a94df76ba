#!/usr/bin/env bash
# One expects a boolean attention mask of shape (batch, 1, queries, keys), True where a query may look, to mean the same
# in every attention implementation of transformers: torch's own scaled_dot_product_attention takes it so.
#
# With attn_implementation="sdpa" it does. With "eager" the mask is added to the scores as 0 and 1, so every token sees
# every other, also those after it. Nothing is said. A mask of floats, 0 and the smallest number, gives the same logits
# in both. transformers 5.23.0, torch 2.13.0, seen on 2026-11-29.
#
# It matters to people who curate data: masks of one's own keep packed samples apart, or let many answers share a prompt,
# and models that need eager attention then measure losses in which each token has read the answer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.23.0

cat > "$folder/mask.py" <<'PY'
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = dict(
    vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.12,
)
ids = (torch.arange(12)[None] * 7 + 3) % 128
causal = torch.ones(12, 12, dtype=torch.bool).tril()[None, None]
floats = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)
changed = ids.clone()
changed[0, -1] = 5
seen = {}
for kind in ("sdpa", "eager"):
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(LlamaConfig(**SIZES), attn_implementation=kind).eval()
    for name, mask in (("no mask", None), ("boolean mask", causal), ("mask of floats", floats)):
        with torch.no_grad():
            first, second = (model(input_ids=each, attention_mask=mask, use_cache=False).logits for each in (ids, changed))
        seen[kind, name] = float((first - second)[0, :-1].abs().max())
        print(f"{kind}, {name}: earlier logits change by {seen[kind, name]:.2g} if the last token is another")
wrong = [key for key, change in seen.items() if change > 0.01]
sys.exit(wrong != [("eager", "boolean mask")] and "transformers does something else now")
PY
"$folder/venv/bin/python" "$folder/mask.py"
