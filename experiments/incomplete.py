#!/usr/bin/env python3
"""Print the prediction files that do not contain all recordings of some file lists, one per line: version, tab, file.

The version is the inode and modification time of the file, as claim.sh --replace expects it. Files that do not exist or
cannot be read are not printed; eval.py reports what is wrong with them.
"""

from birdsong import program  # isort: skip
import argparse
import os

from birdsong.files import Problem, load_npz, read_lines


def version(filename: str) -> str:
    """A text that changes when a file is replaced, the same as the output of stat -c %i-%.9Y."""
    status = os.stat(filename)
    return f'{status.st_ino}-{status.st_mtime_ns // 10**9}.{status.st_mtime_ns % 10**9:09d}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('lists', metavar='FOLDER/A,B', help='file lists in one folder')
    parser.add_argument('files', metavar='FILE', nargs='*', help='prediction files')
    options = parser.parse_args()
    folder, names = os.path.split(options.lists)
    wanted = {key for name in names.split(',') for key in read_lines(os.path.join(folder, name)) if key.strip()}
    for filename in options.files:
        try:
            found = version(filename)
            if not wanted <= set(load_npz(filename, only=('files',))['files'].tolist()):
                print(f'{found}\t{filename}')
        except (OSError, Problem, KeyError):
            continue


if __name__ == '__main__':
    program.run(main)
