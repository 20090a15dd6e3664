#!/usr/bin/env bash
# What each part of the method is worth, on one category, in short runs of the light decoder.
#   benchmarks/ablations.sh ROOT CATEGORY [STEPS] [PYTHON]
# In bfloat16: twice as fast on a CPU that computes in it, slower on one that does not.
set -euo pipefail
root=$1 category=$2 steps=${3:-400} python=${4:-.venv/bin/python}
m=model.init_args

run() { # name, then settings
    local name=$1
    shift
    "$python" benchmarks/accuracy.py --root "$root" --categories "$category" --name "$name" \
        --out results/ablations --set \
        "$m.pre_processor.init_args.image_size=[128,128]" trainer.precision=bf16-mixed \
        trainer.max_epochs=-1 trainer.max_steps="$steps" trainer.check_val_every_n_epoch=1000 "$@"
}

# The paper's own ablation: each row adds to the one above.
still=("$m.turn=0" "$m.shift=0" "$m.zoom=0" "$m.lighting=0")
plain=("${still[@]}" "$m.synthetic_share=0.5" "$m.patches=[1,1]" "$m.patch_area=[0.02,0.15]" "$m.scar_share=0"
    "$m.blob_share=0" "$m.colour_share=0" "$m.opacity=[1,1]" "$m.border_width=[0,0]"
    "$m.other_source_share=0" "$m.patch_scale=[1,1]" "$m.structure_share=0" "$m.min_difference=0")
flat=("$m.coordinate_channels=false")
run "01 CutPaste" "${plain[@]}" "${flat[@]}" "$m.hard_augmentation=0"
run "02 + hard augmentation" "${plain[@]}" "${flat[@]}"
full=("$m.reconstruction_weight=1.0" "$m.adversarial_weight=0.01")
run "03 + adversarial and reconstruction" "${plain[@]}" "${flat[@]}" "${full[@]}"
run "04 + coordinate channels: the paper" "${plain[@]}" "${full[@]}"

# Ours, configs/cpu.yaml, and the same with one thing changed.
run "05 ours"
run "06 ours, one patch" "$m.patches=[1,1]"
run "07 ours, and scars" "$m.scar_share=0.3"
run "08 ours, opaque with sharp borders" "$m.border_width=[0,0]" "$m.opacity=[1,1]"
run "09 ours, no blobs" "$m.blob_share=0"
run "10 ours, patches from the same image" "$m.other_source_share=0"
run "11 ours, patches anywhere" "$m.structure_share=0"
run "12 ours, good images not varied" "${still[@]}"
run "13 ours, detector score" "$m.image_score=detector"
run "14 ours, paper decoder" "$m.decoder=paper"
