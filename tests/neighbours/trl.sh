#!/usr/bin/env bash
# Read exports with TRL 1.16. About 1 GB of packages.
. "$(dirname "$0")/environment.sh"
environment trl==1.16.0 transformers==5.23.0 datasets==5.2.0 accelerate==1.15.0
compare trl
