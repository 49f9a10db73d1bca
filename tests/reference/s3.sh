#!/bin/sh
# Runs tests/unit/test_data_s3.py against a local S3 server (moto), whose packages stay out of .venv: they are put in a
# folder of their own, which may be removed.
#
#     sh tests/reference/s3.sh [PYTHON]     PYTHON is that of an environment with cyclemimic[dev]; .venv/bin/python unless given
set -e
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
extra=${CYCLEMIMIC_S3_PACKAGES:-.venv-s3}
if [ ! -e "$extra/.ready" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --target "$extra" 'moto[server,s3]' s3fs
    touch "$extra/.ready"
fi
PYTHONPATH="$PWD/src:$PWD:$extra${PYTHONPATH:+:$PYTHONPATH}" "$python" -m pytest tests/unit/test_data_s3.py -q -rs
