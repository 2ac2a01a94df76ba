#!/usr/bin/env bash
# Read exports with LLaMA-Factory 0.9.5. It imports torchaudio and torchvision for sound and pictures; the rows are texts,
# so an empty module stands in for the first, and the second is left out.
. "$(dirname "$0")/environment.sh"
environment transformers==5.6.0 datasets==4.0.0 accelerate==1.11.0 peft==0.18.1 trl==0.24.0 "tyro<0.9.0" av==16.0.0 \
    einops fastapi fire hf-transfer matplotlib modelscope numpy omegaconf packaging pandas protobuf pydantic pyyaml \
    safetensors scipy sentencepiece sse-starlette tiktoken "torchdata<=0.11.0" uvicorn
"$work/env/bin/pip" install -q --no-deps llamafactory==0.9.5
site=$("$work/env/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
mkdir -p "$site/torchaudio" && touch "$site/torchaudio/__init__.py"
compare llama-factory
