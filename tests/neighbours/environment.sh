# Sourced by the scripts of this folder: makes a temporary folder with an environment, and runs the three steps in it.
#
#   CURATE_PYTHON  the Python that has curate (default: .venv/bin/python of this checkout)
#   PYTHON         the Python of the trainer's environment (default: python3)
#   KEEP           a folder to use, and to keep, in place of a temporary one

set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
curate=${CURATE_PYTHON:-$root/.venv/bin/python}
work=${KEEP:-$(mktemp -d)}
[ -n "${KEEP:-}" ] || trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$root HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

# The CPU build of torch, where the index of packages or a folder of wheels (PIP_FIND_LINKS) has it.
torch="torch==2.13.0"

environment() { # PACKAGE...: make the environment with these packages
    [ -e "$work/installed" ] && return
    "${PYTHON:-python3}" -m venv "$work/env"
    "$work/env/bin/pip" install -q "$torch" "$@"
    touch "$work/installed"
}

compare() { # TRAINER: export with curate, read with the trainer, compare
    mkdir -p "$work/data"
    "$curate" -m tests.neighbours.make "$1" "$work/data" > "$work/make.log" 2>&1 || { cat "$work/make.log"; exit 1; }
    (cd "$work/data" && env -u PYTHONPATH "$work/env/bin/python" "$here/read_${1//-/_}.py" "$work/data") > "$work/read.log" 2>&1 ||
        { tail -40 "$work/read.log"; exit 1; }
    "$curate" -m tests.neighbours.compare "$1" "$work/data"
}
