"""A page that shows a run: figures, pictures, and the commands to go on. Needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf7; --ink: #26241f; --quiet: #77736a;
        --line: #ddd8cc; --card: #ffffff; --accent: #3b6ea5; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1b1a18; --ink: #ece8df; --quiet: #9d978a; --line: #3a3732; --card: #242320;
          --accent: #8db7e0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2.5rem 1.5rem 5rem; background: var(--paper);
       color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 2rem; margin: 0 0 .3rem; }
h2 { margin: 3rem 0 .4rem; font-size: 1.25rem; }
p { max-width: 46rem; margin: .4rem 0; }
.quiet { color: var(--quiet); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem;
           margin: 1.5rem 0; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
          padding: .9rem 1.1rem; }
.figure b { display: block; font-size: 1.7rem; color: var(--accent);
            font-variant-numeric: tabular-nums; }
.figure span { color: var(--quiet); font-size: .9rem; }
figure { margin: 1rem 0; overflow-x: auto; }
img { max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
img.pixels { image-rendering: pixelated; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
td, th { padding: .3rem 1.4rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; }
td:last-child { text-align: right; padding-right: 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
      padding: .9rem 1.1rem; overflow-x: auto; font-size: .9rem; }
.note { border-left: 4px solid #d08a2e; padding: .5rem 1rem; background: var(--card);
        max-width: 46rem; }
"""


class Figure(NamedTuple):
    """One number that matters: ``value`` as text with its unit, and what it says."""

    value: str
    meaning: str


class Section(NamedTuple):
    """A part of the page; every piece but the title may be empty.

    ``image`` is a path relative to the page, ``rows`` a table's rows of two texts, ``code`` is
    shown as it stands.
    """

    title: str
    text: str = ""
    image: str = ""
    rows: Sequence[tuple[str, str]] = ()
    code: str = ""


def page(
    title: str, lead: str, note: str, figures: Sequence[Figure], sections: Sequence[Section]
) -> str:
    """The whole page as HTML, with its style inside; all texts are escaped."""
    cards = "\n".join(
        f'<div class="figure"><b>{escape(figure.value)}</b>'
        f"<span>{escape(figure.meaning)}</span></div>"
        for figure in figures
    )
    body = "\n".join(_section(section) for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="quiet">{escape(lead)}</p>
{f'<p class="note">{escape(note)}</p>' if note else ""}
<div class="figures">
{cards}
</div>
{body}
</body>
</html>
"""


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.image:
        source, name = escape(section.image, quote=True), escape(section.title, quote=True)
        parts.append(f'<figure><a href="{source}"><img src="{source}" alt="{name}"></a></figure>')
    if section.rows:
        rows = "\n".join(
            f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
            for name, value in section.rows
        )
        parts.append(f"<table>\n{rows}\n</table>")
    if section.code:
        parts.append(f"<pre>{escape(section.code)}</pre>")
    return "\n".join(parts)
