#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""model_tool.py - every command of cecollm-model, on synthesised models and, where
it is at hand, on the real one; and every mistake that a user can make: one line on
stderr that names the culprit, exit code 1, or 2 when the command line is wrong."""
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("CECOLLM_BUILDDIR", "."))
SRC = Path(os.environ.get("CECOLLM_SRCDIR", "."))
DATA = Path(os.environ.get("CECOLLM_DATA") or SRC / "../shared/data")
MODEL = Path(os.environ.get("CECOLLM_MODEL")
             or SRC / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
TOOL = (BUILD / "cecollm-model").resolve()
COMMANDS = ["info", "split", "tokenize", "ppl", "score", "bench", "fit-screens", "eval-exits",
            "quantize", "verify", "synth"]


def tool(*args, text=None, env=None):
    return subprocess.run([TOOL, *map(str, args)], input=text, capture_output=True,
                          text=True, timeout=600, env={**os.environ, **(env or {})})


class Case(unittest.TestCase):
    def ok(self, *args, **more):
        r = tool(*args, **more)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def fails(self, code, pattern, *args, **more):
        r = tool(*args, **more)
        self.assertEqual(r.returncode, code, r.stderr + r.stdout)
        self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)
        self.assertRegex(r.stderr, pattern)
        self.assertEqual(r.stdout, "")


class Synthetic(Case):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp())
        cls.model = cls.dir / "tiny.gguf"
        r = tool("synth", "-o", cls.model, "--layers", 6, "--type", "Q8_0", "--exits",
                 "2,4", "--seed", 3)
        assert r.returncode == 0, r.stderr
        cls.text = cls.dir / "text.txt"
        cls.text.write_text("The quick brown fox jumps over the lazy dog. " * 60)
        cls.late = cls.dir / "late.txt"
        cls.late.write_text("".join("%d green bottles, %s.\n" % (n, hex(n * n))
                                    for n in range(99, 0, -1)))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def ids(self, name, *lines):
        path = self.dir / name
        path.write_text("".join(line if isinstance(line, str) else json.dumps(line)
                                for line in lines))
        return path

    # ---- help ----

    def test_help(self):
        self.assertIn("Commands:", self.ok("--help"))
        self.assertIn("cecollm-model", self.ok("--version"))
        for command in COMMANDS:
            self.assertIn(command, self.ok("--help"))
            self.assertIn("Usage: cecollm-model " + command, self.ok(command, "--help"))

    def test_usage(self):
        self.assertEqual(tool().returncode, 2)
        self.fails(2, 'no command "frobnicate"', "frobnicate")
        for command in COMMANDS:
            self.fails(2, "--frobnicate", command, "--frobnicate")
        for command in COMMANDS[:-1]:
            self.fails(2, "something is missing", command)
        self.fails(2, "--output is missing", "synth")
        self.fails(2, "none of F32", "synth", "-o", self.dir / "x.gguf", "--type", "Q9")
        self.fails(2, "none of llama", "synth", "-o", self.dir / "x.gguf", "--arch", "gpt2")

    def test_full_disk(self):
        if not Path("/dev/full").exists():
            self.skipTest("no /dev/full")
        with open("/dev/full", "w") as full:
            r = subprocess.run([TOOL, "info", self.model], stdout=full,
                               stderr=subprocess.PIPE, text=True)
        self.assertEqual(r.returncode, 1)
        self.assertIn("stdout", r.stderr)

    # ---- synth and info ----

    def test_synth_is_reproducible(self):
        a, b, c = (self.dir / n for n in ("a.gguf", "b.gguf", "c.gguf"))
        self.ok("synth", "-o", a, "--seed", 9, "--untied")
        self.ok("synth", "-o", b, "--seed", 9, "--untied")
        self.ok("synth", "-o", c, "--seed", 10, "--untied")
        self.assertEqual(a.read_bytes(), b.read_bytes())
        self.assertNotEqual(a.read_bytes(), c.read_bytes())

    def test_synth_refuses(self):
        out = self.dir / "never.gguf"
        self.fails(1, "heads", "synth", "-o", out, "--heads", 3, "--kv-heads", 2)
        self.fails(1, "n_rot", "synth", "-o", out, "--n-rot", 18)
        self.fails(1, "No such file", "synth", "-o", self.dir / "no/such/place.gguf")
        self.assertFalse(out.exists())

    def test_info(self):
        page = self.ok("info", self.model, "--split", 3)
        for text in ("6 blocks", "Q8_0", "fingerprint", "after block 3", "after block  2: mlp",
                     "edge to 4, cloud from 2"):
            self.assertIn(text, page)
        info = json.loads(self.ok("info", self.model, "--split", "3", "--json"))
        self.assertEqual(info["shape"]["n_layers"], 6)
        self.assertEqual(info["file_bytes"], self.model.stat().st_size)
        self.assertEqual([e["layer"] for e in info["exits"]], [2, 4])
        self.assertEqual([(s["cloud_from"], s["edge_to"]) for s in info["splits"]],
                         [(2, 2), (3, 3), (4, 4), (2, 4)])
        # 6 blocks, 2 KV heads of 16, keys and values in two bytes
        self.assertEqual(info["kv_bytes_per_1000"], 6 * 2 * 16 * 2 * 2 * 1000)
        chosen = self.ok("info", self.model, "--exit-layers", "1,3,5")
        self.assertIn("3 in no file", chosen)
        self.assertIn("after block  5: shared", chosen)
        none = json.loads(self.ok("info", self.model, "--exits", "none", "--json"))
        self.assertEqual(none["exits"], [])
        self.fails(1, "--split 6: expected 1 to 5", "info", self.model, "--split", 6)

    # ---- files that are not models ----

    def test_bad_files(self):
        whole = self.model.read_bytes()
        bad = {"text": b"hello", "empty": b"", "head": whole[:100],
               "half": whole[:len(whole) // 2]}
        for name, content in bad.items():
            path = self.dir / (name + ".gguf")
            path.write_bytes(content)
            for args in (["info"], ["split"], ["tokenize", "--ids"], ["bench"]):
                operands = [path, "x"] if args[0] == "tokenize" else [path]
                self.fails(1, re.escape(str(path)), *args, *operands)
            self.fails(1, re.escape(str(path)), "ppl", path, self.text)
        for command in ("info", "split", "bench"):
            self.fails(1, "/nonexistent.gguf: No such file", command, "/nonexistent.gguf")
        self.fails(1, re.escape(str(self.dir)), "info", self.dir)

    # ---- tokenize ----

    def test_tokenize(self):
        text = "naïve café \U0001f980\n<|im_end|> the \x00 end"
        ids = self.ok("tokenize", self.model, "-", "--ids", text=text)
        self.assertEqual(self.ok("tokenize", self.model, "--decode", text=ids), text)
        self.assertNotIn(2, list(map(int, ids.split())))
        parsed = json.loads(self.ok("tokenize", self.model, "--special", "--json",
                                    "a<|im_end|>"))
        self.assertEqual(parsed["ids"][-1], 2)
        self.assertEqual(parsed["n"], 2)
        self.assertEqual(parsed["pieces"][-1], "<|im_end|>")
        table = self.ok("tokenize", self.model, "x\n\x1b").splitlines()
        self.assertEqual([line.split()[1] for line in table], ["x", "\\n", "\\x1b"])
        self.assertEqual(self.ok("tokenize", self.model, "", "--ids"), "\n")

    def test_decode_refuses(self):
        for ids in ("1 two", "99999", "[-5]", "1;2", "99999999999999999999"):
            self.fails(1, "offset", "tokenize", self.model, "--decode", ids)
        self.assertEqual(self.ok("tokenize", self.model, "--decode", "[3, 4]").encode(
            "utf-8", "surrogateescape"), b"\x00\x01")

    # ---- ppl ----

    def test_ppl(self):
        line = self.ok("ppl", self.model, self.text, "--ctx", 64, "--chunks", 3)
        self.assertRegex(line, r"^perplexity \d+\.\d+ \+- .*3 chunks of 64 tokens, 93 scored")
        one, two = (json.loads(self.ok("ppl", self.model, self.text, "--ctx", 128, "--json",
                                       "--threads", n)) for n in (1, 2))
        self.assertEqual(one, two)
        self.assertEqual(one["scored"], 63 * one["chunks"])
        from_stdin = self.ok("ppl", self.model, "-", "--ctx", 128, "--json",
                             text=self.text.read_text())
        self.assertEqual(json.loads(from_stdin), one)

    def test_ppl_refuses(self):
        short = self.dir / "short.txt"
        short.write_text("too short")
        self.fails(1, "one chunk needs 512", "ppl", self.model, short)
        self.fails(1, "No such file", "ppl", self.model, self.dir / "none.txt")
        self.fails(1, "context is 512", "ppl", self.model, self.text, "--ctx", 513)
        self.fails(1, "directory", "ppl", self.model, self.dir)
        self.fails(1, "kernels|cpu", "ppl", self.model, self.text, "--cpu", "z80")

    # ---- packing ----

    def test_packing(self):
        args = ["ppl", self.model, self.text, "--ctx", 128, "--chunks", 2, "--json"]
        packed = self.ok(*args)
        self.assertEqual(self.ok(*args, "--packing", "on"), packed)
        self.assertEqual(self.ok(*args, "--packing", "off"), packed)
        self.fails(1, "--packing: maybe is neither on nor off", *args, "--packing", "maybe")

    def test_packing_cache(self):
        cache = self.dir / "cache"
        args = ["ppl", self.model, self.text, "--ctx", 128, "--chunks", 2, "--json"]
        packed = self.ok(*args)
        r = tool(*args, "--packing-cache", cache)
        self.assertEqual((r.returncode, r.stdout), (0, packed))
        self.assertRegex(r.stderr, "warn packing cache: .*No such file")
        cache.mkdir()
        damages = [lambda f: f.write_bytes(b"short"), lambda f: f.chmod(0o666)]
        for damage in [None, None, *damages]:  # written, mapped, replaced, replaced
            if damage:
                damage(next(cache.iterdir()))
            r = tool(*args, "--packing-cache", cache)
            self.assertEqual((r.returncode, r.stdout), (0, packed))
            self.assertEqual("warn packing cache" in r.stderr, damage is not None)
            self.assertEqual(len(list(cache.iterdir())), 1)
        self.assertEqual(next(cache.iterdir()).stat().st_mode & 0o22, 0)

    # ---- score ----

    def test_score(self):
        prompt, output = [1, 40, 50, 60], [70, 80, 90]
        ids = self.ids("ids.jsonl", {"prompt_ids": prompt, "output_ids": output}, "\n\n",
                       {"prompt_ids": [5], "output_ids": []}, "\n")
        lines = [json.loads(x) for x in
                 self.ok("score", self.model, ids, "--all-exits").splitlines()]
        self.assertEqual([x["line"] for x in lines], [0, 2])
        self.assertEqual(lines[1]["argmax"], [])
        for suffix in ("", "_2", "_4"):
            self.assertEqual(len(lines[0]["argmax" + suffix]), 3)
            self.assertTrue(all(0 < c <= 1 for c in lines[0]["confidence" + suffix]))
            self.assertTrue(all(m >= 0 for m in lines[0]["margin" + suffix]))
        plain = json.loads(self.ok("score", self.model, ids).splitlines()[0])
        self.assertEqual(plain["argmax"], lines[0]["argmax"])
        self.assertNotIn("argmax_2", plain)

    def test_score_position_by_position(self):
        """A place's result depends on what precedes it alone, also past one batch."""
        ids = [(i * 37) % 320 for i in range(150)]
        a = self.ids("long.jsonl", {"prompt_ids": ids[:1], "output_ids": ids[1:]})
        b = self.ids("late.jsonl", {"prompt_ids": ids[:140], "output_ids": ids[140:]})
        a, b = (json.loads(self.ok("score", self.model, x, "--all-exits")) for x in (a, b))
        for key in b:
            if key != "line":
                self.assertEqual(a[key][139:], b[key])

    def test_score_exit_layers(self):
        """Exits that share the model's head, wherever they are asked for."""
        ids = self.ids("any.jsonl", {"prompt_ids": [1, 40], "output_ids": [70, 80, 90]})
        a = json.loads(self.ok("score", self.model, ids, "--all-exits", "--exit-layers", "3,5"))
        self.assertEqual({k for k in a if k.startswith("argmax")},
                         {"argmax", "argmax_3", "argmax_5"})
        self.fails(1, "tiny.gguf: exit layers must ascend within 1 to 5; got 6", "score",
                   self.model, ids, "--exit-layers", "3,6")
        self.fails(1, "must ascend", "score", self.model, ids, "--exit-layers", "3,3")

    def test_score_logits(self):
        ids = self.ids("logits.jsonl", {"prompt_ids": [1, 40, 50], "output_ids": [60, 70]})
        a = json.loads(self.ok("score", self.model, ids, "--all-exits", "--logits"))
        for head in ("", "_2", "_4"):
            rows = a["logits" + head]
            self.assertEqual([len(r) for r in rows], [320, 320])
            self.assertEqual([r.index(max(r)) for r in rows], a["argmax" + head])
        self.assertNotIn("logits", json.loads(self.ok("score", self.model, ids)))

    def test_score_refuses(self):
        good = {"prompt_ids": [1], "output_ids": [2]}
        for bad, why in (("{]", "line 2"), ("[1]", "prompt_ids"), ("{}", "prompt_ids"),
                         ({"prompt_ids": [], "output_ids": [1]}, "not empty"),
                         ({"prompt_ids": [1], "output_ids": ["x"]}, r"output_ids\[0\]"),
                         ({"prompt_ids": [1, 320], "output_ids": [1]}, r"prompt_ids\[1\]"),
                         ({"prompt_ids": [-1], "output_ids": [1]}, r"prompt_ids\[0\]"),
                         ({"prompt_ids": [1] * 512, "output_ids": [1]}, "context of 512")):
            r = tool("score", self.model, self.ids("bad.jsonl", good, "\n", bad))
            self.assertEqual(r.returncode, 1)
            self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)
            self.assertRegex(r.stderr, "bad.jsonl: line 2: .*" if why == "line 2" else why)
            self.assertEqual(len(r.stdout.splitlines()), 1)
        self.fails(1, "No such file", "score", self.model, self.dir / "none.jsonl")

    # ---- split ----

    def test_split(self):
        out = self.ok("split", self.model)
        edge, cloud = self.dir / "tiny.edge.gguf", self.dir / "tiny.cloud.gguf"
        self.assertIn(str(edge), out)
        infos = [json.loads(self.ok("info", f, "--json")) for f in (self.model, edge, cloud)]
        self.assertEqual(len({i["fingerprint"] for i in infos}), 1)
        self.assertEqual([(i["layer_from"], i["layer_to"]) for i in infos],
                         [(0, 6), (0, 4), (2, 6)])
        self.assertIn("blocks 0 to 3", self.ok("info", edge))
        self.assertEqual([e["layer"] for e in infos[1]["exits"]], [2, 4])
        self.assertEqual(self.ok("tokenize", edge, "hello", "--ids"),
                         self.ok("tokenize", self.model, "hello", "--ids"))
        self.fails(1, "needs the whole model", "ppl", edge, self.text)
        self.fails(1, "needs the whole model", "bench", cloud)
        self.fails(1, "already a part", "split", edge)

    def test_split_exit_layers(self):
        edge, cloud = self.dir / "le.gguf", self.dir / "lc.gguf"
        self.ok("split", self.model, "--exit-layers", "1,5", "--edge", edge, "--cloud", cloud)
        e, c = (json.loads(self.ok("info", f, "--exits", "none", "--json"))
                for f in (edge, cloud))
        self.assertEqual((e["layer_to"], c["layer_from"], c["exits"]), (5, 1, []))
        self.assertEqual([(x["layer"], x["kind"], x["bytes"]) for x in e["exits"]],
                         [(1, "shared", 0), (5, "shared", 0)])

    def test_own_exits(self):
        """They are shown, scored, split off, and given no screens."""
        model, odd = self.dir / "own.gguf", self.dir / "odd.gguf"
        self.ok("synth", "-o", model, "--exits", "1,3", "--exit-kind", "own", "--type", "F16")
        self.assertIn("after block  1: own, 41.2 kB", self.ok("info", model))
        out = self.ok("split", model)
        self.assertIn("own.edge.gguf", out)
        e = json.loads(self.ok("info", self.dir / "own.edge.gguf", "--exits", "none",
                               "--json"))
        self.assertEqual([(x["layer"], x["kind"], x["bytes"]) for x in e["exits"]],
                         [(n, "own", 64 * 4 + 320 * 64 * 2) for n in (1, 3)])
        ids = self.ids("own.jsonl", {"prompt_ids": [1, 40], "output_ids": [70, 80, 90]})
        a, b = (json.loads(self.ok("score", model, ids, "--all-exits", *more))
                for more in ([], ["--exit-layers", "1,3"]))
        self.assertEqual(a["argmax"], b["argmax"])
        self.assertNotEqual(a["confidence_1"], b["confidence_1"])
        self.fails(1, "kind own; screens are for", "fit-screens", model, "--data", self.text,
                   "-o", self.dir / "never.exits", "--rank", 32)
        self.fails(1, "candidates", "synth", "-o", odd, "--exits", "1", "--exit-kind", "own",
                   "--candidates", 8)
        self.fails(2, "mine", "synth", "-o", odd, "--exits", "1", "--exit-kind", "mine")

    def test_split_elsewhere(self):
        edge, cloud = self.dir / "e.gguf", self.dir / "c.gguf"
        self.ok("split", self.model, "--exits", "none", "--cloud-from", 3, "--edge", edge,
                "--cloud", cloud)
        e, c = (json.loads(self.ok("info", f, "--exits", "none", "--json"))
                for f in (edge, cloud))
        self.assertEqual((e["layer_to"], c["layer_from"], e["exits"]), (3, 3, []))

    def test_split_refuses(self):
        before = self.model.read_bytes()
        self.fails(1, "--cloud-from", "split", self.model, "--exits", "none")
        self.fails(1, "do not make", "split", self.model, "--cloud-from", 5, "--edge-to", 4)
        self.fails(1, "do not make", "split", self.model, "--cloud-from", 6)
        self.fails(1, "would replace", "split", self.model, "--edge", self.model)
        link = self.dir / "link.gguf"
        link.symlink_to(self.model)
        self.fails(1, "would replace", "split", self.model, "--cloud", link)
        self.fails(1, "both parts", "split", self.model, "--edge", self.dir / "x.gguf",
                   "--cloud", self.dir / "x.gguf")
        self.fails(1, "No such file", "split", self.model, "--edge", "/nonexistent/e.gguf")
        self.assertEqual(self.model.read_bytes(), before)

    # ---- fit-screens ----

    def fit(self, out, *args, model=None, **more):
        """What it wrote; and its report, with --json."""
        r = self.ok("fit-screens", model or self.model, "--data", self.text, self.late, "-o",
                    out, "--rank", 32, *args, **more)
        return out.read_bytes(), json.loads(r) if "--json" in args else r

    def exits(self, out, model=None):
        return json.loads(self.ok("info", model or self.model, "--exits", out,
                                  "--json"))["exits"]

    def test_fit_screens(self):
        out = self.dir / "fitted.gguf"
        written, report = self.fit(out, "--json")
        self.assertEqual(report["file_bytes"], len(written))
        self.assertGreaterEqual(report["rows_fitted"], 4 * 32)
        self.assertEqual([(c["layer"], round(c["theta"], 2)) for c in report["checks"]],
                         [(n, t) for n in (2, 4) for t in (.6, .7, .8, .9, .95, .98)])
        for c in report["checks"]:
            self.assertTrue(0 < c["exit_rate"] < 1, c)
            self.assertGreater(c["below_turned_away"], .9)  # 256 of 320 are candidates
            self.assertGreater(c["above_kept"], .9)
        for before, e in zip(self.exits(self.model.with_suffix(".exits.gguf")),
                             self.exits(out)):
            self.assertEqual((before["screen_rank"], before["candidates"]), (0, 0))
            self.assertEqual((e["screen_rank"], e["candidates"]), (32, 256))
            self.assertEqual((e["width"], e["theta"]), (before["width"], before["theta"]))
            # Q8_0 [32, 64] and Q4_1 [320, 32]
            self.assertEqual(e["bytes"], before["bytes"] + 32 * 2 * 34 + 320 * 20)
        self.assertIn("screen: rank 32, 256 candidates",
                      self.ok("info", self.model, "--exits", out))
        table = self.fit(out)[1]
        self.assertRegex(table, r"rank 32, Q4_1, 256 candidates\n")
        self.assertRegex(table, r"\n +4 +0\.98 ")

    def test_fit_screens_is_reproducible(self):
        out = self.dir / "again.gguf"
        written = self.fit(out)[0]
        for args in (["--threads", 1], ["--threads", 3], ["--cpu", "scalar"],
                     ["--exits", out]):  # the last one in place, with screens to replace
            self.assertEqual(self.fit(out, *args)[0], written, args)
        self.assertNotEqual(self.fit(out, "--seed", 2)[0], written)
        self.assertNotEqual(self.fit(out, "--rows", 1024)[0], written)
        self.assertEqual(list(self.dir.glob("again.gguf?*")), [])

    def test_fit_screens_formats(self):
        out = self.dir / "small.gguf"
        sizes = [len(self.fit(out, "--up-type", t, "--candidates", 9)[0])
                 for t in ("q4_0", "q4_1", "Q8_0", "f16")]
        self.assertEqual(sizes, sorted(set(sizes)))
        self.assertEqual([e["candidates"] for e in self.exits(out)], [9, 9])
        kept = self.exits(out)
        small = len(self.fit(out, "--up-type", "f16", "--adapters", "q8_0")[0])
        self.assertLess(small, sizes[-1])
        # map, gate, up and down, [64, 64] each
        self.assertEqual([a["bytes"] - b["bytes"] for a, b in zip(kept, self.exits(out))],
                         [4 * 64 * (2 * 64 - 2 * 34)] * 2)

    def test_fit_screens_of_any_width(self):
        odd, out = self.dir / "odd.gguf", self.dir / "odd.out"
        self.ok("synth", "-o", odd, "--exits", "2", "--d-model", 48, "--untied",
                "--exit-width", 50, "--vocab", 333)
        self.fit(out, "--adapters", "q8_0", model=odd)
        self.assertEqual(self.exits(out, odd)[0]["screen_rank"], 32)

    def test_fit_screens_of_a_part(self):
        """A part has its exits within; what is fitted to them fits the whole too."""
        edge, out = self.dir / "part-a.gguf", self.dir / "part.out"
        self.ok("split", self.model, "--edge", edge, "--cloud", self.dir / "part-b.gguf")
        self.fit(out, "--exits", "none", model=edge)
        self.assertEqual([e["candidates"] for e in self.exits(out)], [256, 256])
        self.ok("split", self.model, "--exits", out, "--edge", edge, "--cloud",
                self.dir / "part-b.gguf")
        self.assertEqual([e["candidates"] for e in self.exits("none", edge)], [256, 256])
        again = self.fit(out, "--exits", "none", model=edge)[0]
        self.assertEqual(self.fit(out, model=edge)[0], self.fit(out)[0])
        self.assertEqual(len(again), len(self.fit(out)[0]))
        self.fails(1, "need those before", "fit-screens", self.dir / "part-b.gguf", "--data",
                   self.text, "-o", out, "--exits", out)

    def test_fit_screens_of_shared_exits(self):
        """Written by hand: a file of exits without any tensor."""
        def text(s):
            return struct.pack("<Q", len(s)) + s.encode()

        def key(name, kind, value):
            return text(name) + struct.pack("<I", kind) + value

        digest = hashlib.sha256(self.model.read_bytes()).hexdigest()
        keys = [key("general.architecture", 8, text("cecollm-exits")),
                key("cecollm.exit.model_file_sha256", 8, text(digest)),
                key("cecollm.exit.version", 4, struct.pack("<I", 1)),
                key("cecollm.exit.layers", 9, struct.pack("<IQi", 5, 1, 3)),
                key("cecollm.exit.kinds", 9, struct.pack("<IQ", 8, 1) + text("shared")),
                key("note.of.another", 8, text("kept"))]
        exits, out = self.dir / "shared.in", self.dir / "shared.out"
        exits.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(keys))
        written = self.fit(out, "--exits", exits)[0]
        e, = self.exits(out)
        self.assertEqual((e["kind"], e["layer"], e["screen_rank"]), ("shared", 3, 32))
        self.assertIn(b"note.of.another", written)

    def test_fit_screens_refuses(self):
        out = self.dir / "kept.gguf"
        out.write_text("precious")
        tiny, empty, odd = (self.dir / n for n in ("tiny.txt", "empty.txt", "bytes.txt"))
        tiny.write_text("A few words.")
        empty.write_text("")
        odd.write_bytes(bytes(range(256)) * 20)  # the vocabulary has every byte

        def fails(code, pattern, *args, data=(self.text,), model=self.model, to=out):
            self.fails(code, pattern, "fit-screens", model, "--data", *data, "-o", to, *args)

        rank = ("--rank", 32)
        fails(1, "has no exits", *rank, "--exits", "none")
        fails(1, "too little text: 0 tokens", *rank, data=(tiny,))
        fails(1, "too little text: 0 tokens", *rank, data=(empty, tiny))
        fails(1, "--rank 96: more than the model's width of 64")
        fails(2, "--rank 40: not a multiple of 32", "--rank", 40)
        fails(1, "--candidates 321: the model has 320", *rank, "--candidates", 321)
        fails(2, "from 1 to 1024", *rank, "--candidates", 1025)
        fails(2, '"q9" is none of q4_1', *rank, "--up-type", "q9")
        fails(2, "neither keep nor", *rank, "--adapters", "f16")
        fails(1, "No such file", *rank, data=(self.text, self.dir / "none.txt"))
        fails(1, "No such file", *rank, to="/nonexistent/x.gguf")
        fails(1, "irectory", *rank, to=self.dir)
        fails(1, "would replace the model", *rank, to=self.model)
        fails(2, "--output none", *rank, to="none")
        self.fails(2, "--data is missing", "fit-screens", self.model, "-o", out)
        self.fails(2, "--output is missing", "fit-screens", self.model, "--data", self.text)
        self.assertEqual(out.read_text(), "precious")
        self.ok("fit-screens", self.model, "--data", odd, "-o", out, *rank)

    # ---- bench ----

    def bench(self, *args, **more):
        return json.loads(self.ok("bench", self.model, "--json", *args, **more))

    def test_bench(self):
        figures = self.bench("-r", 3, "--threads", 2)
        names = (["prefill_512", "catch_up_16", "exit_check_2", "exit_check_4",
                  "edge_blocks_4", "edge_checks_4"]
                 + ["decode_%d" % n for n in (1, 2, 4, 8, 16, 32, 64)])
        for name in names:
            f = figures[name]
            self.assertGreater(f["tokens_per_second"], 0)
            self.assertGreater(f["limit"], 0)
            self.assertAlmostEqual(f["share"], f["tokens_per_second"] / f["limit"], places=3)
            self.assertLessEqual(f["seconds_best"], f["seconds"])
            self.assertLessEqual(f["seconds"], f["seconds_worst"])
            self.assertLess(f["attention_share"], 1)
            self.assertEqual(f["attention_share"] > 0, not name.startswith("exit"), name)
            self.assertEqual("speedup" in f, name in ("prefill_512", "decode_32"))
        self.assertGreater(figures["peak_bytes"], 0)
        self.assertGreater(figures["machine"]["read_bytes_per_second"], 0)
        self.assertGreaterEqual(figures["machine"]["cores"], 1)
        self.assertEqual(figures["backend"], "cpu/" + figures["kernels"])
        self.assertRegex(figures["commit"], r"^[0-9a-z.-]+$")
        table = self.ok("bench", self.model, "--only", "decode_4,exit_check_2", "-r", 1)
        self.assertIn("attention", table)
        self.assertIn("decode_4", table)
        self.assertNotIn("decode_8", table)
        self.assertNotIn("speedup", table)

    def test_bench_of_checks(self):
        figures = self.bench("-r", 1, "--only", "edge_blocks_4,edge_checks_4")
        blocks, checks = (figures["edge_%s_4" % x]["seconds"] for x in ("blocks", "checks"))
        block = blocks / 64 / 4
        self.assertAlmostEqual(figures["block_seconds"] / block, 1, places=6)
        self.assertAlmostEqual(figures["exit_check_blocks"],
                               (checks - blocks) / 64 / 2 / block, places=6)
        self.assertNotIn("exit_screen_blocks", figures)
        self.assertNotIn("block_seconds", self.bench("-r", 1, "--only", "edge_checks_4"))
        self.fails(1, "--only: no figure", "bench", self.model, "--only", "edge_screened_4")
        screened = self.dir / "screened.gguf"
        self.ok("synth", "-o", screened, "--exits", "1,3", "--candidates", 8)
        names = "edge_blocks_3,edge_checks_3,edge_screened_3"
        table = self.ok("bench", screened, "--only", names, "-r", 1)
        self.assertRegex(table, r"\na block takes \d+ us; an exit check costs -?[\d.]+ blocks; "
                                r"turned away by a screen: -?[\d.]+ blocks\n$")

    def test_bench_scaling(self):
        only = ("-r", 1, "--threads", 2, "--only", "decode_1,decode_8,decode_32")
        for scaling, want in ((["all"], {"decode_1", "decode_8", "decode_32"}),
                              (["decode_8"], {"decode_8"}), (["none"], set())):
            figures = self.bench(*only, "--scaling", *scaling)
            scaled = {n for n, f in figures.items() if n.startswith("decode") and "speedup" in f}
            self.assertEqual(scaled, want)
            for f in (figures[n] for n in scaled):
                speedup = f["tokens_per_second"] / f["one_thread_tokens_per_second"]
                self.assertAlmostEqual(f["speedup"], speedup, places=4)
        alone = self.bench("-r", 1, "--threads", 1, "--only", "decode_32")
        self.assertNotIn("speedup", alone["decode_32"])
        table = self.ok("bench", self.model, *only, "--scaling", "decode_8")
        self.assertIn("speedup", table)

    def test_bench_refuses(self):
        self.fails(1, "--only: no figure", "bench", self.model, "--only", "warp_9")
        self.fails(1, "--only: no figure", "bench", self.model, "--only", "decode_1,warp_9")
        self.fails(1, "--scaling: no figure", "bench", self.model, "--only", "decode_1",
                   "--threads", 2, "--scaling", "decode_2")
        self.fails(1, "llama-bench", "bench", self.model, "--only", "decode_1", "-r", 1,
                   "--peer", "/nonexistent")

    def fake_peer(self, name, **scripts):
        """A folder with shell scripts in place of llama.cpp's programs."""
        peer = self.dir / name
        peer.mkdir()
        for program, script in scripts.items():
            path = peer / program.replace("_", "-")
            path.write_text("#!/bin/sh\n" + script + "\n")
            path.chmod(0o755)
        return peer

    # Twice as fast with a file that starts with "Q4": what the fake quantiser makes.
    SPEED = 'case $(head -c 2 "$2") in Q4) s=2;; *) s=1;; esac; '
    BENCH = SPEED + """echo '[{"n_prompt": 512, "n_gen": 0, "samples_ts": ['$s']}]'"""
    BATCHED = SPEED + """echo '{"pl": 4, "speed_tg": '$s'.5}'"""
    ONLY = ("--only", "prefill_512,decode_4", "-r", 1, "--scaling", "none")

    def test_bench_with_peer(self):
        peer = self.fake_peer("peer", llama_bench=self.BENCH, llama_batched_bench=self.BATCHED)
        r = tool("bench", self.model, *self.ONLY, "--peer", peer, "--json")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertRegex(r.stderr, "^cecollm-model bench: no llama-quantize in .*\n$")
        f = json.loads(r.stdout)
        for name, theirs in (("prefill_512", 1), ("decode_4", 1.5)):
            self.assertEqual(f[name]["peer_tokens_per_second"], theirs)
            self.assertAlmostEqual(f[name]["ratio"] * theirs / f[name]["tokens_per_second"],
                                   1, places=4)
            self.assertNotIn("ratio_q4_0", f[name])
        (peer / "llama-batched-bench").write_text("#!/bin/sh\nexit 3\n")
        self.fails(1, "llama-batched-bench failed .status 3", "bench", self.model, *self.ONLY,
                   "--peer", peer)
        (peer / "llama-batched-bench").unlink()
        self.fails(1, "llama-batched-bench: No such file", "bench", self.model, *self.ONLY,
                   "--peer", peer)

    def test_bench_with_peers_best(self):
        tmp = self.dir / "tmp"
        tmp.mkdir()
        env = {"TMPDIR": str(tmp)}
        quantise = ('[ "$1 $4 $5" = "--allow-requantize Q4_0 2" ] && [ -s "$2" ] && '
                    '[ -z "$(ls "$TMPDIR")" ] && echo Q4 >"$3"')
        peer = self.fake_peer("best", llama_bench=self.BENCH, llama_quantize=quantise,
                              llama_batched_bench=self.BATCHED)
        only = (*self.ONLY, "--threads", 2, "--peer", peer)
        f = self.bench(*only, env=env)
        for name, same, best in (("prefill_512", 1, 2), ("decode_4", 1.5, 2.5)):
            self.assertEqual(f[name]["peer_tokens_per_second"], same)
            self.assertEqual(f[name]["peer_q4_0_tokens_per_second"], best)
            self.assertAlmostEqual(f[name]["ratio_q4_0"] * best, f[name]["ratio"] * same,
                                   delta=1e-4 * f[name]["tokens_per_second"])
        table = self.ok("bench", self.model, *only, env=env)
        self.assertRegex(table, "llama.cpp +ratio +its Q4_0 +ratio")
        (peer / "llama-quantize").write_text("#!/bin/sh\necho half >\"$3\"; exit 1\n")
        self.fails(1, "llama-quantize failed .status 1", "bench", self.model, *only, env=env)
        self.fails(1, "temporary file in /nonexistent", "bench", self.model, *only,
                   env={"TMPDIR": "/nonexistent"})
        self.assertEqual(list(tmp.iterdir()), [])


@unittest.skipUnless(MODEL.is_file(), "the real model is not there")
class Real(Case):
    def data(self, name):
        path = DATA / name
        if not path.is_file():
            self.skipTest("%s is not there" % path)
        return path

    def test_info(self):
        info = json.loads(self.ok("info", MODEL, "--exits", "none", "--json"))
        self.assertEqual(info["shape"]["n_layers"], 30)
        self.assertEqual(info["weights"], 134515008)
        self.assertEqual(info["tokenizer"]["bos"], 1)
        self.assertIn("134.5 M", self.ok("info", MODEL, "--exits", "none"))

    def test_tokenize(self):
        lines = [json.loads(x) for x in
                 self.data("reference/tokenize.jsonl").read_text().splitlines()]
        for line in lines[:5]:
            ids = self.ok("tokenize", MODEL, "--ids", text=line["text"])
            self.assertEqual(list(map(int, ids.split())), line["ids"])

    def test_ppl(self):
        text = self.data("text/wikitext2_raw_test_part1.txt")
        r = json.loads(self.ok("ppl", MODEL, text, "--chunks", 20, "--json"))
        self.assertEqual(r["scored"], 20 * 255)
        self.assertLessEqual(r["perplexity"], 27.1)
        self.assertGreater(r["perplexity"], 26.5)  # better than float32 is a mistake too

    def test_score(self):
        """Three answers against the float32 fixture; the whole fixture is tests/backend's."""
        fixture = self.data("reference/greedy.jsonl").read_text().splitlines()[:3]
        lines = self.ok("score", MODEL, "-", text="\n".join(fixture)).splitlines()
        equal = total = 0
        for got, want in zip(map(json.loads, lines), map(json.loads, fixture)):
            for a, b, margin in zip(got["argmax"], want["argmax"], want["margin"]):
                self.assertTrue(a == b or margin <= 0.5)
                equal += a == b
                total += 1
        self.assertGreaterEqual(equal, 0.95 * total)

    def test_fit_screens(self):
        """A small fit on few rows is already worth having."""
        if not any(p.name.lower() == "smollm2-135m-instruct.exits.gguf"
                   for p in MODEL.parent.iterdir()):
            self.skipTest("the model has no exits")
        with tempfile.TemporaryDirectory() as folder:
            r = json.loads(self.ok(
                "fit-screens", MODEL, "--data", self.data("text/instructions_tune.txt"),
                self.data("text/state_union_odd_years.txt"), "-o", folder + "/x.gguf",
                "--rows", 5120, "--json"))
        self.assertEqual((r["rows_fitted"], r["rows_checked"]), (9 * 512, 512))
        for c in r["checks"][:4]:  # 0.6 to 0.9 of the first exit
            self.assertGreater(c["below_turned_away"], 0.9)
            self.assertGreater(c["above_kept"], 0.8)


if __name__ == "__main__":
    unittest.main(verbosity=2)
