#!/usr/bin/env bash
# Read exports with Axolotl 0.21. Its package asks for Python 3.12 and for GPU kernels, which reading rows does not need: so it is
# installed without its requirements, and those that reading needs are listed here at its versions.
. "$(dirname "$0")/environment.sh"
export AXOLOTL_DO_NOT_TRACK=1
environment transformers==5.20.1 datasets==5.0.1 trl==1.14.1 peft==0.21.2 tokenizers==0.23.3 accelerate==1.15.0 \
    pydantic==2.13.5 PyYAML addict fire colorama numba einops fastcore art python-dotenv requests zstandard schedulefree \
    posthog typer evaluate==0.4.1 scipy sentencepiece mistral-common==1.12.0 optimum==1.16.2 wandb langdetect immutabledict
"$work/env/bin/pip" install -q --no-deps --ignore-requires-python axolotl==0.21.0 axolotl-contribs-lgpl==0.0.7 axolotl-contribs-mit==0.0.6
compare axolotl
