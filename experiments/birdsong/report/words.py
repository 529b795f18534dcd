"""Numbers and lengths of time in sentences."""


def count(number: int, noun: str, plural: str = 's') -> str:
    """'1 class', '12 classes'."""
    return f'{number:,} {noun}{"" if number == 1 else plural}'.replace(',', '\u202f')


def duration(seconds: float) -> str:
    """A length of time in a fitting unit: '2.5 hours', '12 minutes', '31 s'."""
    if seconds >= 5400:
        return f'{seconds / 3600:,.1f} hours'.replace(',', '\u202f')
    return f'{seconds / 60:.0f} minutes' if seconds >= 120 else f'{seconds:.0f} s'
