#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""protocol_page.py - cecollm-protocol(7) names the frames, fields and kinds of
doc/PROTOCOL.md, and the codes of common/error.h, no more and no less."""
import os
import re
import unittest
from pathlib import Path

SRC = Path(os.environ.get("CECOLLM_SRCDIR", ".")).resolve()
NAMES = {"OK": None, "EINVAL": "INVAL"}  # codes that the page leaves out or calls otherwise


def of_document():
    """{type: (name, {(key, field, kind)})}"""
    text = (SRC / "doc/PROTOCOL.md").read_text()
    found, kinds = {}, {}
    for row in re.findall(r"^\| (\d+) \| ([A-Z]+) \|[^|]*\|([^|]*)\|", text, re.M):
        fields = set()
        for key, name, kind, optional in re.findall(
                r"(\d+):([a-z_]+)(?:\(([^)]*)\))?(\??)", row[2]):
            if kind in ("", "new"):  # given where the name first stands
                kind = kinds.get(name, "u")
            kinds.setdefault(name, kind)
            fields.add((int(key), name, kind + optional))
        found[int(row[0])] = (row[1], fields)
    return found


def of_page(text):
    found, fields = {}, None
    for line in text.splitlines():
        m = re.fullmatch(r"\.It Cm ([A-Z]+) No type (\d+); .*", line)
        if m:
            fields = set()
            found[int(m.group(2))] = (m.group(1), fields)
        elif line.startswith(".Sh"):
            fields = None
        m = re.fullmatch(r"\.It (\d+) Ta Cm ([a-z_]+) Ta (\S+) Ta", line)
        if m and fields is not None:
            fields.add((int(m.group(1)), m.group(2), m.group(3).replace("\\&", "")))
    return found


class Page(unittest.TestCase):
    def setUp(self):
        self.text = (SRC / "man/cecollm-protocol.7").read_text()

    def test_frames(self):
        document = of_document()
        self.assertGreaterEqual(len(document), 19)
        page = of_page(self.text)
        self.assertEqual(sorted(page), sorted(document))
        for kind in document:
            self.assertEqual(page[kind], document[kind])

    def test_codes(self):
        header = (SRC / "common/error.h").read_text()
        codes = {(int(n), NAMES.get(name, name[1:]))
                 for name, n in re.findall(r"\bCE_(E[A-Z]+) = -(\d+),", header)}
        page = {(int(n), name) for n, name in
                re.findall(r"^\.It (\d+) Ta Cm ([A-Z]+) Ta$", self.text, re.M)}
        self.assertGreaterEqual(len(codes), 16)
        self.assertEqual(page, codes)


if __name__ == "__main__":
    unittest.main()
