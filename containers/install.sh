#!/bin/sh
# What both images are: aaebench of the folder $1, installed to /opt/aaebench on Ubuntu, and tried.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
# A compiler and Python's headers: torch.compile and DeepSpeed build kernels when they first need them.
apt-get install --yes --quiet=2 --no-install-recommends g++ python3 python3-dev python3-venv
rm -rf /var/lib/apt/lists/*
python3 -m venv /opt/aaebench
/opt/aaebench/bin/python -m pip install --no-cache-dir "$1[hdf5]"
(cd /tmp && /opt/aaebench/bin/aaebench run --preset demo --epochs 1 --out /tmp/tried)
rm -rf /tmp/tried "$1"
