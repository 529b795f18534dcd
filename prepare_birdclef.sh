#!/usr/bin/env bash
# Creates a dataset in datasets/ from a folder with recordings, and checks it. Each step is a program in datasets/ that
# can also be started separately.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=experiments/lib.sh
source "$ROOT/experiments/lib.sh"

usage() {
    cat <<'END'
Usage: ./prepare_birdclef.sh SOURCE [--dataset NAME] [OPTIONS]

Creates a dataset, datasets/NAME: lists the recordings in SOURCE, creates labels, converts the recordings, divides them
into file lists, and checks the result. You can interrupt it at any time; if it is started again, it does only what is
missing, adds new recordings, and uses the options of the last time (except --check and --jobs) if they are not given.

  SOURCE             folder of the recordings, or a table of them (the layout is recognised, see datasets/README.md)
  --dataset NAME     name of the dataset (birdclef, which is for the five archives of BirdCLEF 2018)
  --layout LAYOUT    birdclef2018, kaggle, xeno-canto, folders, table, annotations or unlabelled
  --check            print what would be read from SOURCE, and write nothing
  --no-audio         a dataset of metadata only: no recordings are needed
  --sample-rate HZ   sample rate of the converted recordings (22050)
  --jobs N           threads for the conversion (all cores)
Which recordings (more: datasets/collect.py --help):
  --min-quality Q, --exclude-licence nd, --drop-duplicates, --min-recordings N and --max-recordings N (per class)
File lists (more: datasets/birdclef/filelists/split.py --help):
  --valid-list FILE  validation recordings, one per line (without it, about 8 % of each class are drawn)
  --valid SHARE, --test SHARE   draw this share of the recordings, such as 0.1, for validation and test
  --folds K          also create NAME-fold1 to NAME-foldK, for a cross-validation; "given": folds of the column fold
  --fold-pattern REGEX          folds from file names, such as '(\d)-' for 1-17367-A-10.ogg
  --group recordist | site      never divide the recordings of a person or a place

BirdCLEF 2018 after conversion: train/2014 12 GiB, train/2015 24 GiB, train/2017 18 GiB, test 17 GiB, soundscapes 1 GiB.
You can remove SOURCE afterwards. If this disk is too small, move folders of datasets/NAME/audio to another one:
  mkdir -p /disk2/birds/2015 datasets/birdclef/audio/train && ln -s /disk2/birds/2015 datasets/birdclef/audio/train/2015

Example: ./prepare_birdclef.sh ~/BirdCLEF2018 --valid-list valid_list
END
}

# Sorts the options into those of each step; sets SOURCE, DATASET and CHECK, too.
parse_arguments() {
    SOURCE='' CHECK='' COLLECT=() LABELS=() CONVERT=() SPLIT=()
    while (($#)); do
        [[ $1 != --*=* ]] || set -- "${1%%=*}" "${1#*=}" "${@:2}"
        case $1 in
            -h | --help) usage; exit 0 ;;
            --check) CHECK=1; shift; continue ;;
            --no-audio | --audio | --drop-duplicates | --no-drop-duplicates) COLLECT+=("$1"); shift; continue ;;
            --dataset | --layout | --min-quality | --exclude-licence | --min-recordings | --max-recordings) ;;
            --sample-rate | --jobs | --valid-list | --valid | --test | --folds | --fold-pattern | --group) ;;
            -*) usage_error "unknown option $1" ;;
            *) [[ -z $SOURCE ]] || usage_error "expected one SOURCE, not $SOURCE and $1"; SOURCE=$1; shift; continue ;;
        esac
        (($# > 1)) && [[ -n $2 ]] || usage_error "$1 needs a value"
        case $1 in
            --dataset) DATASET=$2 ;;
            --jobs) expect "$1" "$2" '[1-9][0-9]*' 'a number above 0'; CONVERT=("$1" "$2") ;;
            --sample-rate) expect "$1" "$2" '[1-9][0-9]*' 'a number above 0'; LABELS=("$1" "$2") ;;
            --folds) expect "$1" "$2" '[0-9]+|given' 'a number, or given' ;;&
            --valid | --test) expect "$1" "$2" '0?(\.[0-9]+)?' 'a share such as 0.1' ;;&
            --group) expect "$1" "$2" 'original|recordist|site|none' 'original, recordist, site or none' ;;&
            --valid-list) [[ -r $2 ]] || die "$2: cannot be read" ;;&
            --valid* | --test | --fold* | --group) SPLIT+=("$1" "$2") ;;
            *) COLLECT+=("$1" "$2") ;;
        esac
        shift 2
    done
}

expect() { [[ $2 =~ ^($3)$ ]] || usage_error "$1 $2: expected $4"; }
step() { log "$1"; run_child "$PYTHON" "$ROOT/datasets/$2" "${@:3}"; }

main() {
    local folder purpose=train
    (($#)) || { usage >&2; exit 2; }
    parse_arguments "$@"
    [[ $DATASET == */* ]] || is_name "$DATASET" ||
        usage_error "--dataset ${DATASET@Q}: expected a name (letters, digits and _ . + -), or a path"
    [[ $DATASET == */* ]] && folder=$DATASET || folder=$ROOT/datasets/$DATASET
    [[ -n $SOURCE ]] || usage_error 'no SOURCE given'
    [[ -e $SOURCE ]] || die "$SOURCE: no such folder; name the folder that contains the recordings"
    ensure_env

    step "1 of 5: recordings in $SOURCE" collect.py "$SOURCE" --dataset "$DATASET" "${COLLECT[@]}" ${CHECK:+--check}
    [[ -z $CHECK ]] || return 0
    step '2 of 5: labels' birdclef/labels/recreate.py --dataset "$DATASET" "${LABELS[@]}"
    if grep -qs '"no_audio": true' "$folder/preparation.json"; then
        log '3 of 5: no conversion (--no-audio)'
    else
        step '3 of 5: conversion' birdclef/audio/convert.py "$SOURCE" --dataset "$DATASET" "${CONVERT[@]}"
    fi
    step '4 of 5: file lists' birdclef/filelists/split.py --dataset "$DATASET" "${SPLIT[@]}"
    [[ -s $folder/filelists/train ]] || purpose=predict
    step '5 of 5: check of the dataset' validate.py "$DATASET" --for "$purpose"
}

main "$@"
