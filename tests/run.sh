#!/usr/bin/env bash
# Runs the tests. Creates a Python environment if there is none.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../experiments/lib.sh"

usage() {
    cat <<'END'
Usage: tests/run.sh [--all] [PYTEST ARGUMENTS]
Runs the tests that take seconds, in one process per core; with --all, also those that take minutes. With -n 0, all
tests run in one process, which a debugger needs.
Example: tests/run.sh tests/test_models.py -k teachers
END
}

main() {
    case ${1:-} in -h | --help) usage; exit 0 ;; esac
    ensure_env
    cd "$ROOT"
    # The processes share the cores, so each computes in one thread.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    exec "$PYTHON" -m pytest -q -n auto --maxprocesses 8 --dist worksteal "$@"
}

main "$@"
