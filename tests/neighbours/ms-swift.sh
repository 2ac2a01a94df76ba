#!/usr/bin/env bash
# Read exports with ms-swift 4.6.
. "$(dirname "$0")/environment.sh"
environment ms-swift==4.6.0 transformers==5.19.0 datasets==4.8.4 "setuptools<81"
compare ms-swift
