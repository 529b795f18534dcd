#!/usr/bin/env python3
"""Stand-in for train.py: records its call, waits for a gate if there is one, and writes a small model, or fails.

Gates are FIFOs beside it, MODEL.gate; a model whose name is in the file FAIL can't be trained.
"""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent


def main():
    out = pathlib.Path(sys.argv[-1])
    name = out.name[: -len('.npz')]
    print(f'{name}: training', flush=True)
    with open(HERE / 'CALLS', 'a') as f:
        f.write(f'train {name} {" ".join(sys.argv[1:-1])}\n')
    for argument in sys.argv:
        if argument.startswith(('ban=', 'init_from=')):
            for teacher in argument.partition('=')[2].split(':'):
                if not os.path.exists(HERE / teacher):
                    sys.exit(f'train.py: {teacher}: no such file')
    state = pathlib.Path(f'{str(out)[: -len(".npz")]}.state')
    if state.exists():
        print(f'{name}: continuing from the state', flush=True)
    state.touch()
    if (HERE / (f'{name}.gate')).exists():
        with open(HERE / (f'{name}.gate')) as gate:
            gate.read()
    if (HERE / 'FAIL').exists() and name in (HERE / 'FAIL').read_text().split():
        sys.exit(f'train.py: {name}: the loss is not finite')
    print(f'{name}: trained', flush=True)
    pathlib.Path(f'{out!s}.vars').write_text('classes=3\n')
    state.unlink()
    out.write_bytes(b'model ' + name.encode())


main()
