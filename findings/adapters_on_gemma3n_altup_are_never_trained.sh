#!/usr/bin/env bash
# One expects a LoRA adapter on a linear layer to act in training as in evaluation: target_modules="all-linear" adapts
# the layer, and its weights are trained and saved like those of all others.
#
# Gemma 3n's correction_coefs in each altup block are such layers. In evaluation the model calls the layer, adapter
# included. In training it reads layer.weight itself, to clamp it, which passes by the adapter: no gradient ever reaches
# lora_A and lora_B there, and the same weights give other logits in train() than in eval(). Neither library says so.
# transformers 5.23.0, peft 0.21.2, torch 2.13.0, seen on 2026-11-29.
#
# It matters to people who curate data: gradients of samples that are measured in eval() have a part that training never
# has, so a selection by gradients ranks for another update than the one that is made.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2

cat > "$folder/adapt.py" <<'PY'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

torch.manual_seed(0)
config = Gemma3nTextConfig(
    vocab_size=128, vocab_size_per_layer_input=128, hidden_size=32, hidden_size_per_layer_input=8, intermediate_size=64,
    num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, head_dim=16, num_kv_shared_layers=0, laurel_rank=4,
    activation_sparsity_pattern=[0.0] * 4, initializer_range=0.1,
)
model = get_peft_model(Gemma3nForCausalLM(config), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
for name, weight in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weight, std=0.1)  # as if it had been trained
ids = torch.arange(5, 25)[None]


def with_gradient(training: bool) -> set[str]:
    model.train(training).zero_grad()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


evaluated_only = sorted(with_gradient(False) - with_gradient(True))
for name in evaluated_only:
    print(f"has a gradient in eval() and none in train(): {name.split('.layers.')[-1]}")
with torch.no_grad():
    in_training, in_evaluation = (model.train(training)(input_ids=ids).logits for training in (True, False))
print(f"largest difference of the logits in train() and eval(), without any dropout: {float((in_training - in_evaluation).abs().max()):.2g}")
expected = len(evaluated_only) == 8 and all("altup.correction_coefs.lora_" in name for name in evaluated_only)
sys.exit(not expected and "transformers or peft does something else now")
PY
"$folder/venv/bin/python" "$folder/adapt.py"
