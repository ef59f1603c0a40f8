#!/usr/bin/env bash
# On the machine without a GPU, in the repository's root: collect what gpu_check.sh needs, .whl and .gpu-data.
set -eu

for p in 2_28 2_27 2_17; do tags="${tags:-} --platform manylinux_${p}_x86_64"; done
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $tags \
    --platform manylinux2014_x86_64 -d .whl pydantic==2.14.4 pydantic-core==2.50.5 annotated-types typing-inspection typing-extensions pyautoattack==0.2.0
python3 - <<'P'
# All but 0.1 of pyautoattack's 42 MB are an example's weights; the working tree may have 64 MiB in all.
import pathlib, zipfile
(path,) = pathlib.Path(".whl").glob("pyautoattack-*.whl")
with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".slim"), "w", zipfile.ZIP_DEFLATED) as new:
    for item in old.infolist():
        if "/examples/" not in item.filename:
            data = old.read(item)
            if item.filename.endswith("/RECORD"):
                data = b"".join(line for line in data.splitlines(True) if b"/examples/" not in line)
            new.writestr(item, data)
path.with_suffix(".slim").replace(path)
P
data=${BENCH_DATA:-../shared/data}
[ -d "$data/MNIST/raw" ] && mkdir -p .gpu-data/MNIST && cp -rL "$data/MNIST/raw" .gpu-data/MNIST/ && chmod -R u+w .gpu-data
bytes=$( (git ls-files -z | while IFS= read -rd '' f; do [ -e "$f" ] && printf '%s\0' "$f"; done; git ls-files -zo --exclude-standard; find .whl .gpu-data -type f -print0) | xargs -0 stat -c %s | awk '{s += $1} END {print s}')
echo "$((bytes / 1048576)) MiB of 64 would travel"
[ "$bytes" -lt 67108864 ] || echo "Too much. Leave out what the checks do not read, and bring it back afterwards:
    git sparse-checkout set --no-cone '/*' '!/results/figures/' '!/results/checkpoints/*cifar10/' '!/results/checkpoints/fashion_mnist/'
    git sparse-checkout disable"
