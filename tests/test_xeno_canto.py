"""The layout `xeno-canto`: downloads beside metadata of the API, or recordings whose names tell enough."""

import json

import pytest

from birdsong.files import Problem
from layouts import recognise, xeno_canto
from shared import xeno_canto_metadata
from shared.source import Source

ENTRY = {
    'id': '101',
    'gen': 'Turdus',
    'sp': 'merula',
    'ssp': 'merula',
    'en': 'Common Blackbird',
    'rec': 'Ann',
    'cnt': 'Austria',
    'loc': 'Linz',
    'lat': '48.3',
    'lng': '14.28',
    'alt': '260',
    'type': 'song',
    'file-name': 'XC101-morning.mp3',
    'lic': '//creativecommons.org/licenses/by-nc-nd/4.0/',
    'q': 'A',
    'time': '05:30',
    'date': '2020-05-01',
    'also': ['Parus major', ''],
}


def entry(number, **fields):
    return {**ENTRY, 'id': number, 'file-name': '', 'also': [''], **fields}


def page(*entries, number=1):
    return {'numRecordings': str(len(entries)), 'page': number, 'recordings': list(entries)}


def put(folder, name, content=b''):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, bytes | str) else json.dumps(content)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def rows(folder):
    """{source path: Recording} and the notes for the user."""
    source = Source(str(folder))
    assert recognise(source)[0] == 'xeno-canto'
    return {row.source: row for row in xeno_canto.rows(source)}, source.report.lines()


def classes(folder):
    return {path: row.class_id for path, row in rows(folder)[0].items()}


def test_fields_of_the_api_become_those_of_recordings(tmp_path):
    put(tmp_path, 'page1.json', page(ENTRY))
    put(tmp_path, 'audio/XC101 - Common Blackbird - Turdus merula.mp3')
    row = rows(tmp_path)[0]['audio/XC101 - Common Blackbird - Turdus merula.mp3']
    assert (row.class_id, row.scientific_name, row.common_name) == (
        'Turdus merula',
        'Turdus merula',
        'Common Blackbird',
    )
    assert (row.date, row.time, row.latitude, row.longitude) == ('2020-05-01', '05:30', '48.3', '14.28')
    assert (row.elevation, row.recordist, row.site, row.recording, row.quality) == ('260', 'Ann', 'Linz', 'XC101', 'A')
    assert (row.licence, row.background, row.part) == (ENTRY['lic'], ['Parus major'], 'train')


def test_longitudes_of_version_3_and_unknown_values_are_read(tmp_path):
    fields = {**ENTRY, 'lng': None, 'lon': 14.25, 'q': 'no score', 'loc': '?', 'id': 101, 'also': 'Parus major'}
    put(tmp_path, 'all.json', [page(fields)])
    row = rows(tmp_path)[0]['XC101.mp3']
    assert (row.longitude, row.quality, row.site, row.background) == ('14.25', '', '', ['Parus major'])


@pytest.mark.parametrize(
    'content',
    [
        page(entry('1'), entry('2')),
        [page(entry('1')), page(entry('2'), number=2)],
        [entry('1'), entry('2')],
        {'1': {'gen': 'Turdus', 'sp': 'merula'}, '2': {'gen': 'Turdus', 'sp': 'merula'}},
        {'page1': page(entry('1')), 'page2': page(entry('2'))},
    ],
)
def test_pages_may_be_arranged_in_any_way(tmp_path, content):
    put(tmp_path, 'metadata/pages.json', content)
    assert classes(tmp_path) == {'XC1.mp3': 'Turdus merula', 'XC2.mp3': 'Turdus merula'}


def test_files_are_found_by_the_number_or_the_name_of_the_upload(tmp_path):
    numbers = range(1001, 1006)
    entries = [entry(str(n), sp=f'species{n}') for n in numbers]
    entries[3]['file-name'] = 'morning.wav'
    put(tmp_path, 'a.json', page(*entries))
    for name in 'xc1001.ogg', 'b/XC1002-bird.mp3', 'b/1003.flac', 'morning.wav', 'Turdus-merula-1005.wav', 'other.wav':
        put(tmp_path, name)
    found, _ = rows(tmp_path)
    assert sorted((row.recording, path) for path, row in found.items()) == [
        ('XC1001', 'xc1001.ogg'),
        ('XC1002', 'b/XC1002-bird.mp3'),
        ('XC1003', 'b/1003.flac'),
        ('XC1004', 'morning.wav'),
        ('XC1005', 'Turdus-merula-1005.wav'),
    ]


def test_a_recording_that_several_pages_contain_is_used_once(tmp_path):
    put(tmp_path, '1.json', page(entry('1', alt='', lat='48.299999999999997'), entry('2')))
    put(tmp_path, '2.json', page(entry('1'), entry('2', date='2020-05-02')))
    found, notes = rows(tmp_path)
    assert found['XC1.mp3'].elevation == '260' and found['XC2.mp3'].date == '2020-05-01' and len(found) == 2
    assert 'entries whose recording is in an earlier entry: 2, such as 2.json, recording 1; merged' in notes
    assert 'entries that contradict an earlier entry: 1, such as 2.json, recording 2; the first one is used' in notes


def test_recordings_without_species_are_unlabelled(tmp_path):
    put(tmp_path, '1.json', page(entry('1', gen='Mystery', sp='mystery'), entry('2', gen='Sonus', sp='naturalis')))
    found, notes = rows(tmp_path)
    assert {(row.class_id, row.part) for row in found.values()} == {('', 'unlabelled')}
    assert 'recordings whose species is unknown: 2, such as XC1.mp3; they are in the part unlabelled' in notes


def test_files_without_metadata_get_the_class_of_their_name_or_folder(tmp_path):
    put(tmp_path, '1.json', page(entry('1'), entry('2', sp='pilaris'), entry('3')))
    for name in (
        'a/XC1.mp3',
        'a/XC9.mp3',
        'b/XC2.mp3',
        'b/XC3.mp3',
        'b/XC8.mp3',
        'XC7 - Wren - Troglodytes troglodytes.mp3',
    ):
        put(tmp_path, name)
    found, notes = rows(tmp_path)
    assert found['a/XC9.mp3'].class_id == 'Turdus merula'
    assert (found['b/XC8.mp3'].class_id, found['b/XC8.mp3'].part) == ('', 'unlabelled')
    assert found['XC7 - Wren - Troglodytes troglodytes.mp3'].class_id == 'Troglodytes troglodytes'
    assert any(note.startswith('recordings without metadata: 2') for note in notes)


def test_names_alone_are_enough(tmp_path):
    names = {
        "XC11 - Swainson's Thrush - Catharus ustulatus swainsoni.mp3": (
            'Catharus ustulatus',
            "Swainson's Thrush",
            'train',
        ),
        'XC12 - Identity unknown - Mystery mystery.mp3': ('', '', 'unlabelled'),
        'audio/Turdus_merula/XC13.mp3': ('Turdus merula', '', 'train'),
        'audio/amered/XC14.ogg': ('amered', '', 'train'),
        'audio/amered/XC15(1).ogg': ('amered', '', 'train'),
        'audio/noise/XC16.ogg': ('', '', 'noise'),
        'XC17.ogg': ('', '', 'unlabelled'),
    }
    for name in names:
        put(tmp_path, name)
    found, _ = rows(tmp_path)
    assert {path: (row.class_id, row.common_name, row.part) for path, row in found.items()} == names
    assert found['audio/amered/XC15(1).ogg'].recording == 'XC15'


def test_folders_may_be_arranged_by_part_and_class(tmp_path):
    for name in 'train/amered/2019/XC1.mp3', 'train/wren/XC2.mp3', 'valid/amered/XC3.mp3', 'test/XC4.mp3':
        put(tmp_path, name)
    found, _ = rows(tmp_path)
    assert {path: (row.class_id, row.part, row.recording) for path, row in found.items()} == {
        'train/amered/2019/XC1.mp3': ('amered', 'train', 'XC1'),
        'train/wren/XC2.mp3': ('wren', 'train', 'XC2'),
        'valid/amered/XC3.mp3': ('amered', 'valid', 'XC3'),
        'test/XC4.mp3': ('', 'test', 'XC4'),
    }


def test_a_folder_has_the_class_of_the_names_in_it(tmp_path):
    put(tmp_path, 'blackbirds/XC1 - Blackbird - Turdus merula.mp3')
    put(tmp_path, 'blackbirds/XC2.mp3')
    assert set(classes(tmp_path).values()) == {'Turdus merula'}


def test_recordings_in_no_folder_have_no_class_in_common(tmp_path):
    put(tmp_path, 'XC1 - Blackbird - Turdus merula.mp3')
    put(tmp_path, 'XC2.mp3')
    assert classes(tmp_path)['XC2.mp3'] == ''


def test_tables_of_other_layouts_come_first(tmp_path):
    put(tmp_path, 'train_audio/a/XC1.ogg')
    put(tmp_path, 'train.csv', 'primary_label,filename\na,a/XC1.ogg\n')
    assert recognise(Source(str(tmp_path)))[0] == 'kaggle'


def test_metadata_may_be_a_table(tmp_path):
    put(tmp_path, 'm.csv', '\ufeffid,gen,sp,en,lng,also,q\r\n7,Turdus,merula,Blackbird,1.5,"[\'Parus major\']",B\r\n')
    row = rows(tmp_path / 'm.csv')[0]['XC7.mp3']
    assert (row.class_id, row.longitude, row.background, row.quality) == ('Turdus merula', '1.5', ['Parus major'], 'B')


def test_damaged_json_is_refused_in_one_line(tmp_path):
    put(tmp_path, '1.json', json.dumps(page(entry('1')))[:-20])
    with pytest.raises(Problem, match=r'1.json: damaged JSON \(.*line 1.*\); download it again'):
        rows(tmp_path)


@pytest.mark.parametrize('content', ['{"gen": "sp"', '[' * 65000 + '"gen" "sp"', '{"gen": 1e999, "sp": ' + '9' * 9999])
def test_json_of_any_depth_and_size_is_refused(tmp_path, content):
    put(tmp_path, '1.json', content)
    with pytest.raises(Problem, match='1.json: damaged JSON'):
        rows(tmp_path)


def test_a_json_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(xeno_canto_metadata, 'MAX_JSON', 1 << 20)
    put(tmp_path, '1.json', json.dumps(page(ENTRY)) + ' ' * (1 << 20))
    with pytest.raises(Problem, match='1.json: larger than 1 MB'):
        rows(tmp_path)


def test_other_json_is_ignored(tmp_path):
    put(tmp_path, 'page1.json', page(ENTRY))
    put(tmp_path, 'birds.json', ['amered'])
    put(tmp_path, 'error.json', {'error': 'missing_parameter', 'message': '?'})
    put(tmp_path, 'settings.json', '{')
    assert classes(tmp_path) == {'XC101.mp3': 'Turdus merula'}


def test_entries_without_number_are_reported(tmp_path):
    put(tmp_path, '1.json', page(entry('1'), entry(''), entry('../2')))
    found, notes = rows(tmp_path)
    assert list(found) == ['XC1.mp3']
    assert 'entries without a number in the field id: 2, such as 1.json, recording 2; left out' in notes


def test_without_metadata_and_numbers_the_layout_is_refused_with_the_columns_found(tmp_path):
    put(tmp_path, 'a.csv', 'id,genus\n1,Turdus\n')
    put(tmp_path, 'a.wav')
    with pytest.raises(Problem, match='no metadata of xeno-canto .*a.csv has the columns id, genus'):
        list(xeno_canto.rows(Source(str(tmp_path))))
