#!/usr/bin/env bash
# What a teacher is worth: a student of half its size, distilled, and the same network trained alone for the same time;
# both as int8 artifacts on the same validation images.
#
#   examples/distill/distill.sh DATA [MINUTES]
#
# DATA is a folder with train.bin and val.bin or test.bin in CIFAR-100's binary layout (the long-tailed subset, if the
# long tail is to be seen). MINUTES is the time for each training, 7 unless given. Results stay in target/distill.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 1; }
data=$(realpath -e -- "$1")
minutes=${2:-7}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
teacher=examples/models/ride-resnet32-cifar100lt
student=examples/distill/student.toml
out=target/distill
cargo build --release --locked -p ride-compiler
ride=${CARGO_TARGET_DIR:-target}/release/ride-compile
rm -rf "$out"
mkdir -p "$out"
common=(--student "$student" --data "$data" --val "$data" --minutes "$minutes" --schedule cosine)

"$ride" distill --teacher "$teacher" "${common[@]}" --lr 0.03 -o "$out/student"
"$ride" distill --from-scratch "${common[@]}" --lr 0.1 -o "$out/alone"

for run in student alone; do
    # The second expert runs unless the first one is sure.
    "$ride" build "$out/$run" --data "$data" --router max-probability --router-threshold 0.8 -o "$out/$run.ride"
    "$ride" verify "$out/$run.ride" --model "$out/$run" --data "$data" --router max-probability --router-threshold 0.8
done
