#!/usr/bin/env bash
# Creates a dataset in datasets/ from a folder with the organisers' archives, and checks it. Each step is a program in
# datasets/birdclef/ that can also be started separately.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=experiments/lib.sh
source "$ROOT/experiments/lib.sh"

usage() {
    cat <<'END'
Usage: ./prepare_birdclef.sh SOURCE [--dataset NAME] [--valid-list FILE] [--jobs N]

Converts the recordings in SOURCE, collects their XML, creates labels and file lists, and checks the result,
datasets/NAME. You can interrupt it at any time; if it is started again, it does only what is missing.

  SOURCE             folder into which all five archives of BirdCLEF 2018 were extracted (it contains TrainingSet/,
                     data/, BirdCLEF2018MonophoneTest/, val/data/ and test/), or other recordings in this layout
  --dataset NAME     name of the dataset (birdclef)
  --valid-list FILE  validation recordings, one per line, such as train/2014/LIFECLEF2014_BIRDAMAZON_XC_WAV_RN1.wav
                     (without it, about 8 % of each species are drawn at random, always the same ones)
  --jobs N           threads for the conversion (all cores)

Sizes for BirdCLEF 2018 after conversion: train 2014 12 GiB, 2015 24 GiB, 2017 18 GiB, test 17 GiB, soundscapes 1 GiB;
72 GiB in total, 48 000 recordings. You can remove SOURCE afterwards.
If this disk is too small, move any folder below datasets/NAME/audio to another one, before or between runs:
  mkdir -p /disk2/birds/2015 datasets/birdclef/audio/train
  ln -s /disk2/birds/2015 datasets/birdclef/audio/train/2015
Folders for other disks: train/2014, train/2015, train/2017, test, soundscapes.

Example: ./prepare_birdclef.sh ~/BirdCLEF2018 --valid-list valid_list
END
}

main() {
    local source='' dataset=birdclef scripts=$ROOT/datasets/birdclef split=() convert=()
    (($#)) || { usage >&2; exit 2; }
    while (($#)); do
        case $1 in
            -h | --help) usage; exit 0 ;;
            --dataset=* | --valid-list=* | --jobs=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
            --dataset | --valid-list | --jobs)
                (($# > 1)) && [[ -n $2 ]] || usage_error "$1 needs a value"
                case $1 in
                    --dataset) dataset=$2 ;;
                    --valid-list) split=(--valid-list "$2") ;;
                    --jobs) convert=(--jobs "$2") ;;
                esac
                shift 2 ;;
            -*) usage_error "unknown option $1" ;;
            *)
                [[ -z $source ]] || usage_error "expected one SOURCE, not both $source and $1"
                source=$1; shift ;;
        esac
    done
    [[ $dataset == */* ]] || is_name "$dataset" ||
        usage_error "--dataset ${dataset@Q}: expected a name (letters, digits and _ . + -), or a path"
    [[ -n $source ]] || usage_error 'no SOURCE given'
    [[ -d $source ]] || die "$source: no such folder; name the folder into which you extracted the archives"
    [[ ${#split[@]} == 0 || -r ${split[1]} ]] || die "${split[1]}: cannot be read"
    [[ ${#convert[@]} == 0 || ${convert[1]} =~ ^[1-9][0-9]*$ ]] ||
        usage_error "--jobs ${convert[1]}: expected a number above 0"
    ensure_env

    log "1 of 5: XML of $source"
    run_child "$PYTHON" "$scripts/xml/collect.py" "$source" --dataset "$dataset"
    log '2 of 5: labels'
    run_child "$PYTHON" "$scripts/labels/recreate.py" --dataset "$dataset"
    log '3 of 5: recordings'
    run_child "$PYTHON" "$scripts/audio/convert.py" "$source" --dataset "$dataset" "${convert[@]}"
    log '4 of 5: file lists'
    run_child "$PYTHON" "$scripts/filelists/split.py" --dataset "$dataset" "${split[@]}"
    log '5 of 5: check of the dataset'
    run_child "$PYTHON" "$ROOT/datasets/validate.py" "$dataset"
}

main "$@"
