#!/bin/sh
# Regenerates sentinel_extproc/transport/pb from this folder. Called by `make proto`.
# $1: the bin folder of the virtual environment that has grpcio-tools and mypy-protobuf.
set -eu
cd "$(dirname "$0")/.."
bin="$1"
out=sentinel_extproc/transport/pb
"$bin/python" -m grpc_tools.protoc --proto_path=proto \
    --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" \
    --python_out="$out" --mypy_out="$out" \
    proto/sentinel_ext_proc.proto
