#!/usr/bin/env bash
# Runs the tests, in an environment that is made if there is none.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../experiments/lib.sh"

usage() {
    cat <<'END'
Usage: tests/run.sh [--all] [PYTEST ARGUMENTS]
Runs the tests that take seconds; with --all, also those that take minutes.
Example: tests/run.sh tests/test_models.py -k teachers
END
}

main() {
    case ${1:-} in -h | --help) usage; exit 0 ;; esac
    ensure_env
    cd "$ROOT"
    exec "$PYTHON" -m pytest -q "$@"
}

main "$@"
