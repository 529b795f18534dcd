"""Every golden case is covered: named in the tuple GOLDEN of some test module."""

import filecmp

from helpers import condensed, covered

# networks and weights that other cases use, and lists, which are not cases
PARTS = ('.out64', '.run64')


def recorded(golden_dir):
    return {str(path.relative_to(golden_dir))[: -len('.json')] for path in golden_dir.rglob('*.json')}


def test_every_case_is_covered_by_a_test(golden_dir):
    missing = {case for case in recorded(golden_dir) - set(covered()) if not case.endswith(PARTS)}
    assert not missing, f'covered by no test: {", ".join(sorted(missing))}'


def test_no_test_names_a_missing_case(golden_dir):
    unknown = set(covered()) - recorded(golden_dir)
    assert not unknown, {case: covered()[case] for case in unknown}


def test_every_case_can_be_run_from_the_fixtures_alone():
    missing = set(covered()) - set(condensed())
    assert not missing, f'left out by fixtures/make_golden.py: {", ".join(sorted(missing))}'


def test_the_generated_dataset_is_the_recorded_one(golden_dir, golden_dataset):
    folder = golden_dir / 'dataset'
    names = [path.relative_to(folder) for path in folder.rglob('*') if path.is_file()]
    same, different, missing = filecmp.cmpfiles(folder, golden_dataset, names, shallow=False)
    assert len(same) == len(names) and not different and not missing
