'use strict';

// Tables: a click on the title of a column sorts, and a text filters the rows of large tables.
const FILTERED = 15;

const compare = new Intl.Collator(undefined, { numeric: true }).compare;

function valueOf(row, column) {
    const cell = row.cells[column];
    return cell.dataset.value ?? cell.textContent;
}

// A number as it is shown, with spaces between thousands; NaN if it is empty or a text.
function numberOf(text) {
    const plain = text.replace(/[\s\u202f]/g, '');
    return plain === '' ? NaN : Number(plain);
}

// Sorts the rows; empty cells come last in both directions.
function sort(table, column, descending) {
    const body = table.tBodies[0];
    const numeric = table.tHead.rows[0].cells[column].classList.contains('number');
    const keyed = Array.from(body.rows, (row) => {
        const text = valueOf(row, column).trim();
        return { row, key: numeric ? numberOf(text) : text };
    });
    const missing = ({ key }) => key === '' || Number.isNaN(key);
    const sign = descending ? -1 : 1;
    keyed.sort((a, b) => missing(a) - missing(b)
        || (missing(a) ? 0 : sign * (numeric ? a.key - b.key : compare(a.key, b.key))));
    body.append(...keyed.map(({ row }) => row));
}

function makeSortable(table) {
    const heads = table.tHead.rows[0].cells;
    Array.from(heads).forEach((head, column) => {
        const button = document.createElement('button');
        button.type = 'button';
        button.append(...head.childNodes);
        head.append(button);
        button.addEventListener('click', () => {
            const now = head.getAttribute('aria-sort');
            // numbers: the highest first
            const descending = now ? now === 'ascending' : head.classList.contains('number');
            for (const other of heads) other.removeAttribute('aria-sort');
            head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
            sort(table, column, descending);
        });
    });
}

function makeFilter(table) {
    const label = document.createElement('label');
    const input = document.createElement('input');
    label.className = 'filter';
    input.type = 'search';
    label.append('Show rows with', input);
    table.closest('.table').prepend(label);
    input.addEventListener('input', () => {
        const wanted = input.value.trim().toLowerCase();
        for (const row of table.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
}

for (const table of document.querySelectorAll('.table table')) {
    if (table.tBodies[0].rows.length > 1) makeSortable(table);
    if ('filter' in table.dataset && table.tBodies[0].rows.length >= FILTERED) makeFilter(table);
}

// A link to a folded part unfolds it.
function unfold() {
    let element = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!element) return;
    const target = element;
    for (; element; element = element.parentElement) if (element.tagName === 'DETAILS') element.open = true;
    target.scrollIntoView();
}
addEventListener('hashchange', unfold);
unfold();

// Everything is printed, also what is folded.
addEventListener('beforeprint', () => {
    for (const details of document.querySelectorAll('details:not([open])')) {
        details.open = true;
        details.dataset.folded = '';
    }
});
addEventListener('afterprint', () => {
    for (const details of document.querySelectorAll('details[data-folded]')) {
        details.open = false;
        delete details.dataset.folded;
    }
});
