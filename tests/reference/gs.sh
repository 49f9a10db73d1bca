#!/bin/sh
# Runs tests/unit/test_data_gs.py against a local emulator of Google's storage, whose packages stay out of .venv: they are
# put in a folder of their own, which may be removed.
#
#     sh tests/reference/gs.sh [PYTHON]     PYTHON is that of an environment with cyclemimic[dev]; .venv/bin/python unless given
set -e
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
extra=${CYCLEMIMIC_GS_PACKAGES:-.venv-gs}
if [ ! -e "$extra/.ready" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --target "$extra" gcp-storage-emulator gcsfs
    touch "$extra/.ready"
fi
PYTHONPATH="$PWD/src:$PWD:$extra${PYTHONPATH:+:$PYTHONPATH}" "$python" -m pytest tests/unit/test_data_gs.py -q -rs
