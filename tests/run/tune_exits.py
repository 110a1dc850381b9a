#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tune_exits.py - cecollm-model tune-exits on a synthesised model: what it writes loads
and is the same for the same seed, rows are taken again, interrupted runs go on, and every
mistake that a user can make is one line on stderr and leaves an earlier file alone."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("CECOLLM_BUILDDIR", "."))
TOOL = (BUILD / "cecollm-model").resolve()
SMALL = ("--width", "32", "--steps", "30", "--batch", "32", "--rank", "32",
         "--candidates", "32", "--threads", "2")


def tool(*args, **more):
    return subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True,
                          timeout=600, **more)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp())
        cls.model, cls.other = cls.dir / "m.gguf", cls.dir / "other.gguf"
        for path, seed in (cls.model, 1), (cls.other, 2):
            r = tool("synth", "-o", path, "--layers", 3, "--seed", seed)
            assert r.returncode == 0, r.stderr
        cls.text, cls.prompts = cls.dir / "a.txt", cls.dir / "prompts.txt"
        cls.text.write_text("".join(f"Line {i} says that {i} times {i} is {i * i}, and "
                                    f"{i % 7} is the rest of it by seven.\n"
                                    for i in range(60)))
        cls.prompts.write_text("What is the sum of 3 and 4?\n\nName a few green animals.\n")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def setUp(self):
        self.out = self.dir / "m.exits.gguf"

    def tearDown(self):
        for path in self.dir.glob("m.exits.gguf*"):
            path.unlink()
        self.assertEqual(list(self.dir.glob("*.tmp")), [])

    def args(self, *more, data=None, layers="1,2"):
        return ("tune-exits", self.model, "--layers", layers, "--data", data or self.text,
                *SMALL, *more)

    def ok(self, *args):
        r = tool(*args)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def fails(self, code, pattern, *args):
        r = tool(*args)
        self.assertEqual(r.returncode, code, r.stderr + r.stdout)
        self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)
        self.assertRegex(r.stderr, pattern)
        self.assertEqual(r.stdout, "")


class Tune(Case):
    def test_writes_exits_that_load(self):
        r = json.loads(self.ok(*self.args("-o", self.out, "--json")))
        self.assertEqual([e["layer"] for e in r["exits"]], [1, 2])
        self.assertGreater(r["rows_trained"], 1000)
        self.assertGreater(r["rows_held_out"], 10)
        self.assertEqual(r["file_bytes"], self.out.stat().st_size)
        for e in r["exits"]:
            self.assertEqual(e["width"], 32)
            self.assertEqual(len(e["screen"]), 6)
        info = self.ok("info", self.model)
        self.assertIn("exits        2 in", info)
        self.assertEqual(info.count("32 wide"), 2)
        self.assertEqual(info.count("screen: rank 32, 32 candidates"), 2)
        self.ok("verify", self.model)
        # Nothing else stays.
        self.assertEqual(list(self.dir.glob("m.exits.gguf*")), [self.out])

    def test_answers_and_repeatability(self):
        args = self.args("--self", self.prompts, "--invent", 5, "--summaries", 3,
                         "--tokens", 900, "--answer-tokens", 40, "-o", self.out)
        made = set()
        for _ in range(2):
            self.ok(*args)
            made.add(self.out.read_bytes())
        self.assertEqual(len(made), 1)
        self.ok(*args, "--seed", 2)
        self.assertNotIn(self.out.read_bytes(), made)

    def test_rows_do_not_depend_on_threads(self):
        rows = self.dir / "m.exits.gguf.r"
        made = set()
        for n in 1, 3:
            self.ok(*self.args("--self", self.prompts, "--tokens", 500, "--rows", rows,
                               "--answer-tokens", 30, "--collect-only"), "-t", n)
            made.add(rows.read_bytes())
            rows.unlink()
        self.assertEqual(len(made), 1)

    def test_rows_are_taken_again(self):
        rows = self.dir / "m.exits.gguf.kept"
        self.assertIn("rows to train on",
                      self.ok(*self.args("--rows", rows, "--collect-only")))
        before = rows.read_bytes()
        r = tool(*self.args("--rows", rows, "-o", self.out, "--no-screens"))
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("taken again", r.stderr)
        self.assertEqual(rows.read_bytes(), before)
        self.fails(1, "other data or options", *self.args("--rows", rows, "-o", self.out,
                                                          layers="2"))
        self.fails(1, "another model", "tune-exits", self.other, "--layers", "1,2",
                   "--data", self.text, "--rows", rows, "-o", self.out, *SMALL)
        rows.write_bytes(before[:-1])
        self.fails(1, "not complete", *self.args("--rows", rows, "-o", self.out))
        rows.write_bytes(b"something else" * 100)
        self.fails(1, "no file of rows", *self.args("--rows", rows, "-o", self.out))

    def test_f16_and_no_screens(self):
        self.ok(*self.args("-o", self.out, "--adapters", "f16", "--no-screens", "--width",
                           "64,32"))
        info = self.ok("info", self.model)
        self.assertIn("64 wide", info)
        self.assertNotIn("screen", info)

    def test_trust(self):
        """Without one, confidence is about the final probability; with one, agreement."""
        prompts = self.jsonl()
        shown = []
        for more in (), ("--no-trust",):
            self.ok(*self.args("-o", self.out, "--no-screens", *more))
            shown.append(json.loads(self.ok(
                "eval-exits", self.model, "--prompts", prompts, "--no-frontier", "--json",
                "-"))["exits"][0])
        self.assertEqual([e["trust"] for e in shown], [True, False])
        self.assertEqual(shown[0]["calibration_error"], shown[0]["agreement_error"])
        self.assertEqual(shown[1]["calibration_error"], shown[1]["mass_error"])

    def test_affine(self):
        self.ok(*self.args("-o", self.out, "--no-screens", "--width", "0,32"))
        info = self.ok("info", self.model)
        self.assertRegex(info, "block  1: .*, affine")
        self.assertRegex(info, "block  2: .*, 32 wide")
        answers = self.ok("eval-exits", self.model, "--prompts", self.jsonl(), "--no-frontier")
        self.assertIn("exit after block 1", answers)

    def jsonl(self):
        path = self.dir / "p.jsonl"
        path.write_text(json.dumps({"prompt": "Name a colour."}) + "\n")
        return path

    def run_until(self, args, pattern):
        """Start the tool, and interrupt it when its progress says the pattern."""
        p = subprocess.Popen([TOOL, *map(str, args)], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        said = b""
        while not re.search(pattern, said):
            more = os.read(p.stderr.fileno(), 4096)
            self.assertTrue(more, said)
            said += more
        p.send_signal(signal.SIGINT)
        out, rest = p.communicate(timeout=120)
        return p.returncode, out, said + rest

    def test_resumed_is_as_if_never_interrupted(self):
        steps, seconds = 2000, 0
        while seconds < 5:  # progress shows, and leaves time to interrupt
            steps *= 2
            args = self.args("-o", self.out, "--steps", steps, "--no-screens")
            began = time.monotonic()
            self.ok(*args)
            seconds = time.monotonic() - began
        whole = self.out.read_bytes()
        self.out.unlink()
        code, out, said = self.run_until(args, rb"training .* [1-9][0-9]*/")
        self.assertEqual(code, 1, said)
        self.assertFalse(self.out.exists())
        self.ok(*args, "--resume")
        self.assertEqual(self.out.read_bytes(), whole)

    def test_interrupted_rows_say_so(self):
        rows = self.dir / "m.exits.gguf.cut"
        args = self.args("--rows", rows, "--self", self.prompts, "--tokens", 400000,
                         "--answer-tokens", 30)
        code, out, said = self.run_until((*args, "--collect-only"),
                                         rb"answering .* [0-9]+[0-9]{3}/")
        self.assertEqual(code, 0, said)
        self.assertIn(b"interrupted: going on", said)
        r = tool(*args, "-o", self.out, "--no-screens")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("of an interrupted run", r.stderr)

    def test_interrupted_runs_go_on(self):
        self.out.write_bytes(b"an earlier one")
        args = list(map(str, (TOOL, *self.args("-o", self.out, "--no-screens"))))
        args[args.index("--steps") + 1] = "200000"
        p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True)
        rows = self.dir / "m.exits.gguf.rows"
        for _ in range(600):
            if rows.exists() or p.poll() is not None:
                break
            time.sleep(0.1)
        time.sleep(0.5)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 1, err)
        self.assertIn("--resume", err.splitlines()[-1])
        self.assertEqual(out, "")
        self.assertEqual(self.out.read_bytes(), b"an earlier one")
        self.assertTrue((self.dir / "m.exits.gguf.state").exists())
        self.fails_last(1, "state", *self.args("-o", self.out, "--resume"))
        self.assertEqual(self.out.read_bytes(), b"an earlier one")

    def fails_last(self, code, pattern, *args):
        r = tool(*args)
        self.assertEqual(r.returncode, code, r.stderr)
        self.assertRegex(r.stderr.splitlines()[-1], pattern)


class Mistakes(Case):
    def test_command_line(self):
        out = ("-o", self.out)
        self.fails(2, "--layers is missing", "tune-exits", self.model, "--data", self.text,
                   *out)
        self.fails(2, "--data is missing", "tune-exits", self.model, "--layers", 1, *out)
        self.fails(2, "--output is missing", *self.args())
        self.fails(2, "does not ascend", *self.args(*out, layers="2,1"))
        self.fails(2, "not a number from 1", *self.args(*out, layers="0"))
        self.fails(2, "--width 33", *self.args(*out, "--width", 33))
        self.fails(2, "3 numbers for 2 exits", *self.args(*out, "--width", "32,32,32"))
        self.fails(2, "--rank 40", *self.args(*out, "--rank", 40))
        self.fails(2, "--rate", *self.args(*out, "--rate", "fast"))
        self.fails(2, "--rate", *self.args(*out, "--rate", "-1"))
        self.fails(2, "neither q8_0 nor f16", *self.args(*out, "--adapters", "q4_1"))
        self.fails(2, "needs --rows", *self.args("--collect-only"))

    def test_before_the_work(self):
        out = ("-o", self.out)
        self.fails(1, "after 3 blocks; the model has 3", *self.args(*out, layers="1,3"))
        self.fails(1, "would replace the model", *self.args("-o", self.model))
        self.fails(1, "No such file", *self.args("-o", self.dir / "no/where"))
        self.fails(1, "more than the model's width", *self.args(*out, "--rank", 96))
        self.fails(1, "has 320 tokens", *self.args(*out, "--candidates", 321))
        self.fails(1, "No such file", *self.args(*out, data=self.dir / "none.txt"))
        self.fails(1, "No such file", *self.args(*out, "--self", self.dir / "none.txt"))
        self.assertFalse(self.out.exists())

    def test_too_little(self):
        tiny = self.dir / "tiny.txt"
        self.out.write_bytes(b"an earlier one")
        for text in "", "A few words only.":
            tiny.write_text(text)
            self.fails(1, "too little to train on: [0-9]+ positions of texts and 0 of "
                       "answers; a model of width 64 needs 256",
                       *self.args("-o", self.out, data=tiny))
        tiny.write_text("\n\nShort.\n")
        self.fails(1, "has no prompts", *self.args("-o", self.out, "--self", tiny))
        self.assertEqual(self.out.read_bytes(), b"an earlier one")
        tiny.unlink()

    def test_exits_of_another_model(self):
        self.ok(*self.args("-o", self.out, "--no-screens"))
        self.fails(1, "exit heads of model .*, but this one is", "info", self.other, "--exits",
                   self.out)


if __name__ == "__main__":
    unittest.main()
