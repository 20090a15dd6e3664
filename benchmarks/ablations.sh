#!/usr/bin/env bash
# What each part of the method is worth, on one category, in short runs from scratch.
#   benchmarks/ablations.sh ROOT CATEGORY [STEPS] [PYTHON]
# In bfloat16: twice as fast on a CPU that computes in it, slower on one that does not.
set -euo pipefail
root=$1 category=$2 steps=${3:-400} python=${4:-.venv/bin/python}
m=model.init_args

run() { # name, then settings
    local name=$1
    shift
    "$python" benchmarks/accuracy.py --root "$root" --categories "$category" --name "$name" \
        --out results/ablations --set "$m.pre_trained=false" \
        "$m.pre_processor.init_args.image_size=[128,128]" trainer.precision=bf16-mixed \
        trainer.max_epochs=-1 trainer.max_steps="$steps" trainer.check_val_every_n_epoch=1000 "$@"
}

# The paper's own ablation: each row adds to the one above.
paper=$(dirname "$0")/../configs/anomalies/paper.yaml
still=("$m.variation=[]")
plain=("${still[@]}" "$m.anomalies=$paper")
flat=("$m.coordinate_channels=false")
run "01 CutPaste" "${plain[@]}" "${flat[@]}" "$m.anomalies.hard_augmentation=0"
run "02 + hard augmentation" "${plain[@]}" "${flat[@]}"
full=("$m.reconstruction_weight=1.0" "$m.adversarial_weight=0.01")
run "03 + adversarial and reconstruction" "${plain[@]}" "${flat[@]}" "${full[@]}"
run "04 + coordinate channels: the paper" "${plain[@]}" "${full[@]}"

# Ours, configs/cpu.yaml, and the same with one thing changed.
run "05 ours"
run "06 ours, one patch" "$m.anomalies.patches=[1,1]"
run "07 ours, opaque with sharp borders" "$m.anomalies.border_width=[0,0]" "$m.anomalies.opacity=[1,1]"
run "08 ours, no blobs" "$m.anomalies.blob_share=0"
run "09 ours, patches from the same image" "$m.anomalies.other_source_share=0"
run "10 ours, patches anywhere" "$m.anomalies.structure_share=0"
run "11 ours, good images not varied" "${still[@]}"
run "12 ours, detector score" "$m.image_score=detector"
run "13 ours, paper decoder" "$m.decoder=paper"
