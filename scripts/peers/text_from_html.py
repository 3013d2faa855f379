"""Two folders of English prose from a documentation package's HTML: calibration and evaluation, file by file in turn.

usage: text_from_html.py HTML_DIR OUT_DIR

For instance `apt-get download debian-handbook; dpkg -x debian-handbook*.deb D` and HTML_DIR =
D/usr/share/doc/debian-handbook/html/en-US. Keeps paragraphs of more than 120 characters.
"""
import html
import pathlib
import re
import sys

source, out = map(pathlib.Path, sys.argv[1:])
for part in ("evaluation", "calibration"):
    (out / part).mkdir(parents=True, exist_ok=True)
for i, path in enumerate(sorted(source.glob("*.html"))):
    kept = []
    for div, p in re.findall(r'<div class="para">(.*?)</div>|<p[^>]*>(.*?)</p>', path.read_text("utf-8"), re.S):
        text = html.unescape(re.sub(r"<[^>]+>", " ", div or p))
        text = re.sub(r" ([.,;:)])", r"\1", re.sub(r"\s+", " ", text).strip())
        if len(text) > 120:
            kept.append(text)
    if kept:
        part = "calibration" if i % 2 else "evaluation"
        (out / part / f"{i:03d}.txt").write_text("\n\n".join(kept) + "\n")
