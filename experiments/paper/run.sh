#!/usr/bin/env bash
# One cell of the paper's tables: fetch the base model, convert and verify it, run the cell, write its table.
#
#   experiments/paper/run.sh [BASE] [DOMAIN] [OVERRIDES...]     by default afhqdog_p2 celebahq
#   TABLE=1 experiments/paper/run.sh ...                        table 1 (geometry) in place of table 2 (FID, bandwidth)
#   REHEARSE=1 experiments/paper/run.sh                         random weights of the same architecture, simulated images,
#                                                               a few steps: tries the way, its numbers mean nothing
#
# BASE and DOMAIN are names of `unseen models` and `unseen domains`. Needs the network, and a GPU for more than a rehearsal.
# A second call goes on where the first one stopped. Only licences that `unseen models` and `unseen domains` state allow it.
set -euo pipefail

base=${1:-afhqdog_p2}
domain=${2:-celebahq}
shift $(($# < 2 ? $# : 2))
unseen=${UNSEEN:-unseen}
python=${PYTHON:-python}
table=${TABLE:-2}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${OUT:-outputs/paper}/table$table-$base-$domain
more=("$@")

declare -A address=(
  [afhqdog_p2]="https://drive.usercontent.google.com/download?id=1QVzY-G5qV-e1WWLEMaUsRscbVgtaYPnv&export=download&confirm=t"
  [ffhq_adm]="https://storage.yandexcloud.net/yandex-research/ddpm-segmentation/models/ddpm_checkpoints/ffhq.pt"
)

if [[ -n ${REHEARSE:-} ]]; then
  [[ $base == afhqdog_p2 ]] || { echo "REHEARSE=1 has the architecture of afhqdog_p2 alone" >&2; exit 2; }
  domain=radiation256
  out=${OUT:-outputs/paper}/rehearsal
  mkdir -p "$out"
  [[ -f $out/random.pt ]] || $python "$here/random_weights.py" "$out/random.pt"
  file=$out/random.pt folder=$out/model
  more+=("model.path=$folder" domain.references=4 domain.validation=0 domain.heldout=4 domain.count=8 samples=4
    solver.steps=3 solver.denoising_steps=2 mixing.record=null prior.id_count=2 tolerances=none bandwidth=fixed
    scores.neighbours=3 features=pixels batch_size=1)
else
  file=weights/$base.pt folder=models/$base
fi

echo "== fetch"
if [[ -z ${address[$base]:-} ]]; then
  echo "$base: the first run downloads it from the hub"
elif [[ ! -f $folder/model_index.json && ! -f $file ]]; then
  mkdir -p "$(dirname "$file")"
  curl --fail --location --output "$file.part" "${address[$base]}" && mv "$file.part" "$file"
fi

echo "== convert and verify"
if [[ -n ${address[$base]:-} && ! -f $folder/model_index.json ]]; then
  $unseen convert "$file" "$folder"
fi
$unseen models "$base"

arguments=(-m "experiment=paper_table$table" "model=$base" "domain=$domain" "${more[@]}" "hydra.sweep.dir=$out/sweep")
echo "== cost"
$unseen run "${arguments[@]}" --dry-run

echo "== run"
if [[ -f $out/sweep/manifest.json ]]; then
  $unseen resume "$out/sweep"
else
  $unseen run "${arguments[@]}"
fi

echo "== table"
$unseen table "$out/sweep" --published --save "$out/table.csv" --save "$out/table.md"
