'use strict';

(() => {
    const $ = id => document.getElementById(id);
    const batch = JSON.parse($('data').textContent);
    const detections = batch.detections;
    const KEY = `birdsong review ${batch.id}`;
    const AUTOMATIC = 'birdsong review: play automatically';
    const VERDICTS = ['right', 'wrong', 'unsure', 'other'];
    const MOST_OPTIONS = 100;

    // verdicts: index of a detection -> [verdict, other species]
    let state = {position: 0, verdicts: {}, saved: '{}'};
    let automatic = false;
    let until = null; // where to stop playing, in seconds of the sound
    let frame = 0; // the next call of playhead
    const earlier = []; // states to go back to

    // == Storage ==

    // A value stored in this browser. Storage may be switched off.
    function stored(key) {
        try {
            return localStorage.getItem(key);
        } catch {
            return null;
        }
    }

    function store(key, value) {
        try {
            localStorage.setItem(key, value);
            return true;
        } catch {
            return false;
        }
    }

    function possible(verdicts) {
        const result = {};
        for (const [index, value] of Object.entries(verdicts)) {
            if (detections[index] && Array.isArray(value) && VERDICTS.includes(value[0])) {
                result[index] = [value[0], String(value[1] ?? '')];
            }
        }
        return result;
    }

    function restore() {
        try {
            const found = JSON.parse(stored(KEY)) ?? {};
            state.verdicts = possible(found.verdicts ?? {});
            state.position = detections[found.position] ? Number(found.position) : 0;
            state.saved = String(found.saved ?? '{}');
        } catch {
            // not written by this page
        }
    }

    function keep() {
        const kept = store(KEY, JSON.stringify(state));
        const count = Object.keys(state.verdicts).length;
        $('kept').textContent = !kept
            ? 'This browser keeps nothing when the page is closed: save your reviews before.'
            : !count ? 'Reviews are kept in this browser.'
            : saved() ? 'All reviews are saved as CSV.'
            : 'Reviews are kept in this browser. Save them as CSV when you are done.';
        $('save').classList.toggle('primary', count > 0 && !saved() && count === detections.length);
        return kept;
    }

    const saved = () => state.saved === JSON.stringify(state.verdicts);

    // == The page ==

    function say(text, alert = false) {
        $('status').textContent = text;
        $('status').classList.toggle('alert', alert);
    }

    // 83.5 -> '1:23.5'
    function minutes(seconds) {
        const tenths = Math.round(seconds * 10);
        const rest = String((tenths % 600) / 10);
        const parts = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60, rest];
        if (!parts[0]) parts.shift();
        return parts.map((part, i) => i ? String(part).padStart(String(part).includes('.') ? 4 : 2, '0') : part).join(':');
    }

    function place(id, from, to) {
        const {start, end} = detections[state.position].clip;
        const share = seconds => 100 * Math.min(1, Math.max(0, (seconds - start) / (end - start)));
        if (from !== null) $(id).style.left = `${share(from)}%`;
        if (to !== null) $(id).style.right = `${100 - share(to)}%`;
    }

    function axes(one) {
        const {start, end} = one.clip;
        const step = [0.5, 1, 2, 5, 10, 20].find(each => (end - start) / each <= 10) ?? 60;
        const times = [];
        for (let t = Math.ceil((start - one.start) / step - 1e-6); t * step <= end - one.start + 1e-6; t++) {
            const share = (t * step + one.start - start) / (end - start);
            // the unit is at the end
            if (share < 0.94) times.push([share, `${t * step}`.replace('-', '−')]);
        }
        $('times').replaceChildren(...times.map(([share, text]) => label(text, 'left', share)), label('s', 'left', 0.98));
    }

    function label(text, side, share) {
        const result = document.createElement('span');
        result.textContent = text;
        result.style[side] = `${100 * share}%`;
        return result;
    }

    function levels() {
        const top = batch.highest / 1000;
        const step = [0.5, 1, 2, 5, 10, 20, 50].find(each => top / each <= 6) ?? 100;
        const labels = [];
        const lines = [];
        for (let level = 0; level < top * 0.95; level += step) {
            labels.push(label(String(level), 'bottom', level / top));
            const line = document.createElement('i');
            line.style.bottom = `${100 * level / top}%`;
            lines.push(line);
        }
        $('frequencies').replaceChildren(...labels);
        $('lines').replaceChildren(...lines);
    }

    const nameOf = one => one.common || one.scientific;

    function show() {
        const one = detections[state.position];
        $('common').textContent = nameOf(one);
        $('scientific').textContent = one.scientific === nameOf(one) ? '' : one.scientific;
        $('confidence').hidden = batch.blind;
        $('confidence-name').textContent = one.calibrated ? 'Probability' : 'Score';
        $('confidence-value').textContent = one.confidence.toFixed(2);
        $('file').textContent = one.file;
        $('time').textContent = `${minutes(one.start)} to ${minutes(one.end)}`;
        if (one.end > one.clip.end + 0.5) $('time').textContent += `; only the first ${(one.clip.end - one.start).toFixed()} s are shown`;
        $('clock').textContent = one.clock;
        $('clock-row').hidden = !one.clock;
        $('image').src = one.clip.image;
        $('image').alt = `Spectrogram, ${minutes(one.clip.start)} to ${minutes(one.clip.end)} of the recording; ` +
            `marked: ${$('time').textContent}`;
        if ($('sound').getAttribute('src') !== one.clip.sound) {
            $('sound').src = one.clip.sound;
            until = null;
            if (automatic) play();
        }
        place('before', null, one.start);
        place('after', one.end, null);
        place('mark', one.start, one.end);
        axes(one);
        playhead();
        progress();
        const following = detections[state.position + 1];
        if (following) new Image().src = following.clip.image;
    }

    function progress() {
        const counts = Object.fromEntries(VERDICTS.map(name => [name, 0]));
        for (const [verdict] of Object.values(state.verdicts)) counts[verdict]++;
        const done = Object.keys(state.verdicts).length;
        const [verdict, other] = state.verdicts[state.position] ?? ['', ''];
        $('progress').textContent = `Detection ${state.position + 1} of ${detections.length}; ${done} reviewed`;
        $('counts').textContent = VERDICTS.filter(name => counts[name]).map(name => `${counts[name]} ${name}`).join(', ');
        for (const name of VERDICTS) $(name).setAttribute('aria-pressed', name === verdict);
        const chosen = batch.classes.find(([id]) => id === other);
        $('other-name').textContent = chosen ? nameOfClass(chosen) : other;
        $('strip').replaceChildren(...detections.map((_, i) => {
            const part = document.createElement('i');
            part.className = `${state.verdicts[i]?.[0] ?? ''} ${i === state.position ? 'here' : ''}`;
            return part;
        }));
        $('previous').disabled = state.position === 0;
        $('next').disabled = state.position === detections.length - 1;
        $('undo').disabled = !earlier.length;
    }

    function go(position) {
        if (!detections[position]) return;
        state.position = position;
        keep();
        show();
        say('');
    }

    // == Verdicts ==

    // Remembers the state for undo.
    function remember() {
        earlier.push(JSON.stringify([state.position, state.verdicts]));
    }

    function decide(verdict, other = '') {
        remember();
        state.verdicts[state.position] = [verdict, other];
        const name = verdict[0].toUpperCase() + verdict.slice(1);
        const next = detections.findIndex((_, i) => i > state.position && !state.verdicts[i]);
        const missing = next >= 0 ? next : detections.findIndex((_, i) => !state.verdicts[i]);
        if (missing >= 0) state.position = missing;
        const kept = keep();
        show();
        if (!kept) {
            say(`${name}. This browser does not keep it: save your reviews.`, true);
        } else if (missing < 0) {
            say(`${name}. All ${detections.length} detections are reviewed: save them as CSV.`);
        } else {
            say(`${name}. Now detection ${missing + 1}: ${nameOf(detections[missing])}`);
        }
    }

    function undo() {
        if (!earlier.length) return;
        [state.position, state.verdicts] = JSON.parse(earlier.pop());
        keep();
        show();
        say('Undone.');
    }

    // == Sound ==

    function play(from = 0, to = null) {
        const sound = $('sound');
        until = to;
        sound.currentTime = from;
        sound.play().catch(() => {
            // refused before the first key or click, or replaced by another sound; errors have an event
        });
    }

    function toggle() {
        const sound = $('sound');
        if (!sound.paused) {
            sound.pause();
        } else {
            play(sound.ended || until !== null ? 0 : sound.currentTime);
        }
    }

    function playDetection() {
        const one = detections[state.position];
        play(one.start - one.clip.start, one.end - one.clip.start);
    }

    function playhead() {
        const sound = $('sound');
        if (until !== null && sound.currentTime >= until) sound.pause();
        const {start} = detections[state.position].clip;
        place('playhead', start + sound.currentTime, null);
        $('playhead').hidden = sound.paused && (sound.currentTime === 0 || sound.ended);
        $('play-name').textContent = sound.paused ? 'Play' : 'Pause';
        cancelAnimationFrame(frame);
        if (!sound.paused) frame = requestAnimationFrame(playhead);
    }

    function setAutomatic(value) {
        automatic = value;
        $('automatic').setAttribute('aria-pressed', value);
        store(AUTOMATIC, value ? '1' : '');
    }

    // == Other species ==

    let options = []; // what can be chosen: [text for the table, text for the user]
    let selected = 0;

    const nameOfClass = ([, scientific, common]) => [...new Set([common, scientific])].filter(Boolean).join(', ');
    const plain = text => text.normalize('NFD').replace(/\p{M}/gu, '').toLowerCase();

    function filterOptions() {
        const typed = $('filter').value.trim();
        const words = plain(typed).split(/\s+/);
        const own = detections[state.position].cells[3];
        const fits = [];
        for (const one of batch.classes) {
            const names = plain(one.join(' '));
            if (one[0] === own || !words.every(word => names.includes(word))) continue;
            // first those with a name that begins so
            const begins = one.some(name => plain(name).startsWith(words.join(' ')));
            fits.push([begins ? 0 : 1, [one[0], nameOfClass(one)]]);
        }
        fits.sort((a, b) => a[0] - b[0]);
        options = fits.slice(0, MOST_OPTIONS).map(each => each[1]);
        const same = batch.classes.some(one => one.some(name => plain(name) === plain(typed)));
        if (typed && !same) options.push([typed, `Not in the list: ${typed}`]);
        $('more').textContent = fits.length > MOST_OPTIONS
            ? `${fits.length - MOST_OPTIONS} more species; type a part of the name` : '';
        $('options').replaceChildren(...options.map(([, text], i) => {
            const item = document.createElement('li');
            item.id = `option-${i}`;
            item.setAttribute('role', 'option');
            item.textContent = text;
            item.addEventListener('click', () => accept(i));
            return item;
        }));
        select(0);
    }

    function select(index) {
        selected = Math.min(Math.max(index, 0), options.length - 1);
        [...$('options').children].forEach((item, i) => item.setAttribute('aria-selected', i === selected));
        const item = $('options').children[selected];
        $('filter').setAttribute('aria-activedescendant', item ? item.id : '');
        $('accept').disabled = !item;
        item?.scrollIntoView({block: 'nearest'});
    }

    function ask() {
        $('sound').pause();
        $('filter').value = '';
        $('others').showModal();
        filterOptions();
        $('filter').focus();
    }

    function accept(index) {
        if (!options[index]) return;
        $('others').close();
        decide('other', options[index][0]);
    }

    function keyInDialog(event) {
        if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
            select(selected + (event.key === 'ArrowDown' ? 1 : -1));
        } else if (event.key === 'Enter' && !event.isComposing) {
            accept(selected);
        } else {
            return;
        }
        event.preventDefault();
    }

    // == CSV ==

    const cell = text => /[",\r\n]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    // Spreadsheets take such a text for a formula; the other cells come with their apostrophes.
    const guarded = text => /^'*[=+\-@\t\r]/.test(text) ? `'${text}` : text;

    function table() {
        const rows = [batch.columns];
        detections.forEach((one, i) => {
            const verdict = state.verdicts[i];
            if (verdict) rows.push([...one.cells, verdict[0], guarded(verdict[1]), batch.id]);
        });
        return rows.map(row => row.map(cell).join(',') + '\n').join('');
    }

    function save() {
        const count = Object.keys(state.verdicts).length;
        if (!count) return say('There is nothing to save yet.');
        const link = document.createElement('a');
        link.href = URL.createObjectURL(new Blob([table()], {type: 'text/csv'}));
        link.download = `review-${batch.number + 1}-${batch.id}.csv`;
        document.body.append(link);
        link.click();
        link.remove();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
        state.saved = JSON.stringify(state.verdicts);
        keep();
        say(`Saved ${count} of ${detections.length} reviews as ${link.download}`);
    }

    // The rows of a CSV table, as lists of texts.
    function parse(text) {
        const rows = [[]];
        const pattern = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|\r|$)/gy;
        for (let found; pattern.lastIndex < text.length && (found = pattern.exec(text));) {
            rows.at(-1).push(found[1]?.replaceAll('""', '"') ?? found[2]);
            if (found[3] !== ',') rows.push([]);
        }
        return rows.filter(row => row.length > 1);
    }

    function loadTable(text) {
        const [header = [], ...rows] = parse(text.replace(/^\ufeff/, ''));
        const places = batch.columns.map(name => header.indexOf(name));
        if (places.slice(0, 6).includes(-1)) return say('This is not a table of reviews that this page has saved.', true);
        const identity = cells => JSON.stringify([cells[0], Number(cells[1]), Number(cells[2]), cells[3]]);
        const known = new Map(detections.map((one, i) => [identity(one.cells), i]));
        const found = {};
        let others = 0;
        for (const row of rows) {
            const cells = places.map(i => row[i] ?? '');
            const index = known.get(identity(cells));
            const verdict = cells[5].trim().toLowerCase();
            if (index === undefined || !VERDICTS.includes(verdict)) {
                others++;
            } else {
                found[index] = [verdict, cells[6].replace(/^'(?='*[=+\-@\t\r])/, '')];
            }
        }
        const count = Object.keys(found).length;
        const rest = others ? `; ${others} rows are not about this batch, or have no verdict` : '';
        if (!count) return say(`No reviews of this batch are in the table${rest}.`, true);
        remember();
        Object.assign(state.verdicts, found);
        keep();
        show();
        say(`Loaded ${count} reviews${rest}.`);
    }

    // == Keys and buttons ==

    const actions = {
        play: toggle,
        'play-detection': playDetection,
        automatic: () => setAutomatic(!automatic),
        right: () => decide('right'),
        wrong: () => decide('wrong'),
        unsure: () => decide('unsure'),
        other: ask,
        previous: () => go(state.position - 1),
        next: () => go(state.position + 1),
        undo,
        save,
    };
    const keys = {
        ' ': 'play', d: 'play-detection', a: 'automatic', s: 'save', z: 'undo',
        r: 'right', 1: 'right', w: 'wrong', 2: 'wrong', u: 'unsure', 3: 'unsure', o: 'other', 4: 'other',
        p: 'previous', arrowleft: 'previous', n: 'next', arrowright: 'next',
    };

    function pressed(event) {
        if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $('others').open) return;
        const key = event.key.toLowerCase();
        // Space activates what has the focus
        if (key === ' ' && event.target.closest('button, a, input, summary')) return;
        if (key === '?') {
            $('help').open = !$('help').open;
            if ($('help').open) $('help').scrollIntoView({block: 'nearest'});
        } else if (Object.hasOwn(keys, key)) {
            actions[keys[key]]();
        } else {
            return;
        }
        event.preventDefault();
    }

    function listen() {
        for (const [id, action] of Object.entries(actions)) {
            $(id).addEventListener('click', event => {
                action();
                // after a click, Space should play
                if (event.detail && !$('others').open) $('card').focus({preventScroll: true});
            });
        }
        document.addEventListener('keydown', pressed);
        for (const name of ['play', 'pause', 'ended', 'seeked']) $('sound').addEventListener(name, playhead);
        const missing = () => say('A clip cannot be loaded: keep the folder “clips” beside this page.', true);
        $('sound').addEventListener('error', missing);
        $('image').addEventListener('error', missing);
        $('spectrogram').addEventListener('click', event => {
            const {clip} = detections[state.position];
            const {left, width} = $('spectrogram').getBoundingClientRect();
            play((clip.end - clip.start) * (event.clientX - left) / width);
        });
        $('others').addEventListener('keydown', keyInDialog);
        $('others').addEventListener('close', () => $('card').focus({preventScroll: true}));
        $('filter').addEventListener('input', filterOptions);
        $('accept').addEventListener('click', () => accept(selected));
        $('cancel').addEventListener('click', () => $('others').close());
        $('load').addEventListener('change', async () => {
            const [file] = $('load').files;
            if (file) loadTable(await file.text());
            $('load').value = '';
        });
        // reviewed in another window
        addEventListener('storage', event => {
            if (event.key !== KEY) return;
            const {position} = state;
            restore();
            state.position = position;
            show();
        });
    }

    function start() {
        $('title').textContent = batch.title;
        const count = batch.pages.length;
        $('batch').textContent = count > 1 ? `batch ${batch.number + 1} of ${count}` : '';
        $('batches').hidden = count < 2;
        for (const [id, step] of [['batch-before', -1], ['batch-after', 1]]) {
            const name = batch.pages[batch.number + step];
            $(id).hidden = !name;
            if (name) $(id).href = name;
        }
        $('problems').hidden = !batch.problems.length;
        $('problems').querySelector('summary').textContent = `Not shown: ${batch.problems.length} detections that cannot be read`;
        $('problems').querySelector('ul').replaceChildren(...batch.problems.map(([what, why]) => {
            const item = document.createElement('li');
            item.textContent = `${what}: ${why}`;
            return item;
        }));
        restore();
        setAutomatic(stored(AUTOMATIC) === '1');
        levels();
        listen();
        keep();
        show();
    }

    start();
})();
