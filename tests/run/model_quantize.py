#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""model_quantize.py - cecollm-model quantize, verify and the memory that info shows, on
synthesised models and, where it is at hand, on the real one; and every mistake that a
user can make: one line on stderr, nothing left behind."""
import hashlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("CECOLLM_BUILDDIR", "."))
SRC = Path(os.environ.get("CECOLLM_SRCDIR", "."))
DATA = Path(os.environ.get("CECOLLM_DATA") or SRC / "../shared/data")
MODEL = Path(os.environ.get("CECOLLM_MODEL")
             or SRC / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
TOOL = (BUILD / "cecollm-model").resolve()
BLOCKS = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20),
          "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34),
          "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144),
          "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210), "BF16": (30, 1, 2)}
NAMES = {number: name for name, (number, _, _) in BLOCKS.items()}


def tool(*args, **more):
    return subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True,
                          timeout=600, **more)


def types():
    page = tool("quantize", "--help").stdout
    return re.search(r"^ +--type NAME +(.*)", page, re.M)[1].split(", ")


class Gguf:
    """Keys and the tensor directory, with where its parts lie."""
    PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q",
             11: "q", 12: "d"}

    def __init__(self, path):
        self.b, self.at = path.read_bytes(), 4
        _, n_tensors, n_keys = self.take("I"), self.take("Q"), self.take("Q")
        self.keys = {}
        for _ in range(n_keys):
            name = self.text()
            self.keys[name] = self.value(self.take("I"))
        self.tensors = {}
        for _ in range(n_tensors):
            name = self.text()
            ne = [self.take("Q") for _ in range(self.take("I"))]
            self.tensors[name] = (NAMES[self.take("I")], ne, self.take("Q"))
        self.data = (self.at + 31) // 32 * 32

    def take(self, code):
        v, = struct.unpack_from("<" + code, self.b, self.at)
        self.at += struct.calcsize("<" + code)
        return v

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.b[self.at - n:self.at]

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, n = self.take("I"), self.take("Q")
            return [self.value(kind) for _ in range(n)]
        return self.take(self.PLAIN[kind])

    def bytes(self, name):
        kind, ne, at = self.tensors[name]
        _, elems, size = BLOCKS[kind]
        n = size
        for i, e in enumerate(ne):
            n *= e // elems if i == 0 else e
        return self.b[self.data + at:self.data + at + n]


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp())
        cls.f32, cls.wide = cls.dir / "tiny.gguf", cls.dir / "wide.gguf"
        cls.q41 = cls.dir / "few.gguf"
        for args in ([cls.f32, "--layers", 3, "--untied"],
                     [cls.wide, "--layers", 2, "--d-model", 256, "--heads", 8,
                      "--head-dim", 32, "--d-ff", 96],
                     [cls.q41, "--layers", 2, "--type", "Q4_1"]):
            r = tool("synth", "-o", *args)
            assert r.returncode == 0, r.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def setUp(self):
        self.out = self.dir / "out.gguf"

    def tearDown(self):
        self.out.unlink(missing_ok=True)
        self.assertEqual(list(self.dir.glob("*.tmp")), [])

    def ok(self, *args, **more):
        r = tool(*args, **more)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def fails(self, code, pattern, *args, stdout=False, **more):
        r = tool(*args, **more)
        self.assertEqual(r.returncode, code, r.stderr + r.stdout)
        self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)
        self.assertRegex(r.stderr, pattern)
        if not stdout:
            self.assertEqual(r.stdout, "")
        return r.stdout


class Quantize(Case):
    def test_every_format(self):
        self.assertLessEqual({"F32", "F16", "Q8_0", "Q4_1", "Q4_0"}, set(types()))
        source = Gguf(self.wide)
        for kind in types():
            page = self.ok("quantize", self.wide, "-o", self.out, "--type", kind, "-f")
            made = Gguf(self.out)
            self.assertEqual(list(made.tensors), list(source.tensors))
            for key, value in source.keys.items():
                if key not in (b"general.file_type", b"general.quantization_version"):
                    self.assertEqual(made.keys[key], value, key)
            self.assertEqual(made.keys[b"general.quantization_version"], 2)
            big = BLOCKS[kind][2] / BLOCKS[kind][1] < 1
            self.assertEqual(made.tensors[b"token_embd.weight"][0], "Q8_0" if big else kind)
            self.assertEqual(made.tensors[b"blk.0.attn_q.weight"][0], kind)
            self.assertEqual(made.bytes(b"blk.1.attn_norm.weight"),
                             source.bytes(b"blk.1.attn_norm.weight"))
            down = made.tensors[b"blk.0.ffn_down.weight"][0]  # rows of 96
            self.assertEqual(96 % BLOCKS[down][1], 0)
            self.assertEqual(down != kind, 96 % BLOCKS[kind][1] != 0)
            self.assertEqual("rows of 96" in page, down != kind, page)
            self.assertIn("bits per weight", page)
            self.assertIn(hashlib.sha256(self.out.read_bytes()).hexdigest(), page)
            self.ok("verify", self.out)

    def test_errors_grow_with_fewer_bits(self):
        errors = []
        for kind in ("F16", "Q8_0", "Q4_1", "Q4_0"):
            page = self.ok("quantize", self.f32, "-o", self.out, "--type", kind, "-f")
            errors.append(float(re.search(r"^  all .* ([0-9.]+)$", page, re.M)[1]))
        self.assertEqual(errors, sorted(errors))
        self.assertLess(errors[0], 0.0005)
        self.assertLess(errors[1], 0.01)
        self.assertLess(errors[3], 0.12)

    def test_threads_do_not_matter(self):
        made = set()
        for n in (1, 2, 5):
            self.ok("quantize", self.wide, "-o", self.out, "--type", "q4_0", "-f", "-t", n)
            made.add(self.out.read_bytes())
        self.assertEqual(len(made), 1)

    def test_output_type(self):
        self.ok("quantize", self.f32, "-o", self.out, "--type", "Q8_0", "--output-type",
                "F16")
        made = Gguf(self.out)
        for name in (b"token_embd.weight", b"output.weight"):
            self.assertEqual(made.tensors[name][0], "F16")
        self.assertEqual(made.tensors[b"blk.2.ffn_up.weight"][0], "Q8_0")

    def test_few_bits_already(self):
        r = tool("quantize", self.q41, "-o", self.out, "--type", "Q4_0")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertRegex(r.stderr, "^[^\n]*warning: [^\n]*few.gguf has fewer than 8 bits "
                                   "already[^\n]*lost twice\n$")
        self.assertIn("matrices with about as few bits already are kept", r.stdout)
        made, source = Gguf(self.out), Gguf(self.q41)
        self.assertEqual(made.bytes(b"blk.0.ffn_down.weight"),
                         source.bytes(b"blk.0.ffn_down.weight"))
        self.assertEqual(made.tensors[b"blk.0.ffn_up.weight"][0], "Q4_0")
        r = tool("quantize", self.q41, "-o", self.out, "--type", "Q4_0", "-f", "--all")
        self.assertEqual(Gguf(self.out).tensors[b"blk.0.ffn_down.weight"][0], "Q4_0")
        # To float and back: least errors are none.
        self.ok("quantize", self.q41, "-o", self.out, "--type", "F32", "-f")
        back = self.dir / "back.gguf"
        self.ok("quantize", self.out, "-o", back, "--type", "Q4_1")
        again = Gguf(back)
        self.assertEqual(again.tensors[b"blk.0.attn_q.weight"][0], "Q4_1")
        page = self.ok("quantize", self.out, "-o", back, "--type", "Q4_1", "-f")
        self.assertLess(float(re.search(r"^  Q4_1 .* ([0-9.]+)$", page, re.M)[1]), 0.003)

    def test_exits_beside_it(self):
        model = self.dir / "early.Q8_0.gguf"
        self.ok("synth", "-o", model, "--type", "Q8_0", "--exits", "2")
        made, = self.dir.glob("early*.exits.gguf")
        made.rename(self.dir / "early.exits.gguf")
        out = self.dir / "early.Q4_0.gguf"
        r = tool("quantize", model, "-o", out, "--type", "Q4_0")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertRegex(r.stderr, "^[^\n]*note: the exit heads beside it are another "
                                   "model's[^\n]*\n$")

    def test_refuses(self):
        q = ["quantize", self.f32, "--type", "Q8_0", "-o"]
        self.fails(2, "--output is missing", "quantize", self.f32, "--type", "Q8_0")
        self.fails(2, "--type is missing", "quantize", self.f32, "-o", self.out)
        self.fails(2, '--type: "Q9" is none of F32, F16, ', "quantize", self.f32, "-o",
                   self.out, "--type", "Q9")
        self.fails(2, '--output-type: "I32" is none of', *q, self.out, "--output-type", "I32")
        self.fails(1, "would replace the model", *q, self.f32, "--force")
        link = self.dir / "link.gguf"
        link.symlink_to(self.f32)
        self.fails(1, "would replace the model", *q, link, "--force")
        self.fails(1, "No such file", *q, self.dir / "no/such/x.gguf")
        self.fails(1, "not a regular file", *q, self.dir, "--force")
        self.fails(1, "No such file", "quantize", self.dir / "none.gguf", "--type", "Q8_0",
                   "-o", self.out)
        self.out.write_text("mine")
        self.fails(1, "exists", *q, self.out)
        self.assertEqual(self.out.read_text(), "mine")
        self.ok(*q, self.out, "--force")

    def test_parts_and_side_files(self):
        edge, cloud = self.dir / "e.gguf", self.dir / "c.gguf"
        self.ok("split", self.f32, "--cloud-from", 1, "--edge", edge, "--cloud", cloud)
        for part in (edge, cloud):
            self.fails(1, "is a part .blocks [01] to [02]", "quantize", part, "-o", self.out,
                       "--type", "Q8_0")
        model = self.dir / "with.gguf"
        self.ok("synth", "-o", model, "--exits", "2")
        self.fails(1, "with.exits.gguf", "quantize", self.dir / "with.exits.gguf", "-o",
                   self.out, "--type", "Q8_0")
        self.assertFalse(self.out.exists())

    def poison(self, name, bits, at=0):
        g = Gguf(self.f32)
        b = bytearray(g.b)
        struct.pack_into("<I", b, g.data + g.tensors[name][2] + 4 * at, bits)
        bad = self.dir / "bad.gguf"
        bad.write_bytes(b)
        return bad

    def test_values_that_are_none(self):
        for name, at, where in ((b"blk.1.ffn_up.weight", 64 * 5 + 7, "row 5, column 7"),
                                (b"blk.1.ffn_norm.weight", 3, "row 0, column 3")):
            for bits in (0x7fc00000, 0x7f800000):
                bad = self.poison(name, bits, at)
                self.fails(1, "tensor %s: %s: the value is not finite"
                           % (name.decode(), where), "quantize", bad, "-o", self.out,
                           "--type", "Q8_0")
                self.assertFalse(self.out.exists())
                page = self.fails(1, "bad.gguf: FAILED", "verify", bad, stdout=True)
                self.assertRegex(page, "weights +FAILED .*%s" % where)
        bad = self.poison(b"blk.1.ffn_up.weight", 0x7e000000)  # 4e37
        self.fails(1, "blk.1.ffn_up.weight: row 0 has values too large for F16",
                   "quantize", bad, "-o", self.out, "--type", "F16")
        self.assertFalse(self.out.exists())

    def test_no_space(self):
        def limit():
            import resource
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000))
        self.fails(1, "out.gguf.tmp: File too large", "quantize", self.f32, "-o", self.out,
                   "--type", "Q8_0", preexec_fn=limit)
        self.assertFalse(self.out.exists())

    def test_interrupted(self):
        big = self.dir / "big.gguf"
        self.ok("synth", "-o", big, "--layers", 8, "--d-model", 512, "--heads", 8,
                "--head-dim", 64, "--d-ff", 2048, "--type", "F16")
        p = subprocess.Popen([TOOL, "quantize", big, "-o", self.out, "--type", "Q4_0", "-t",
                              "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until = time.monotonic() + 60
        while not Path(str(self.out) + ".tmp").exists() and p.poll() is None:
            self.assertLess(time.monotonic(), until)
            time.sleep(0.002)
        p.terminate()
        p.communicate(timeout=60)
        if p.returncode == 0:
            self.skipTest("was faster")
        self.assertEqual(p.returncode, -signal.SIGTERM)
        self.assertFalse(self.out.exists())


class Verify(Case):
    def test_good(self):
        page = self.ok("verify", self.f32)
        digest = hashlib.sha256(self.f32.read_bytes()).hexdigest()
        for check in ("container", "model", "tokenizer", "exits", "weights", "sha256"):
            self.assertRegex(page, r"(?m)^  %s +OK " % check)
        self.assertIn(digest, page)
        self.assertNotIn("FAILED", page)
        self.ok("verify", self.f32, "--sha256", digest)
        self.ok("verify", self.f32, "--sha256", digest.upper())
        self.assertEqual(self.ok("verify", self.f32, self.wide).count("container"), 2)

    def test_hashes(self):
        digest = hashlib.sha256(self.f32.read_bytes()).hexdigest()
        other = "0" * 64
        page = self.fails(1, "FAILED", "verify", self.f32, "--sha256", other, stdout=True)
        self.assertRegex(page, "sha256 +FAILED  %s, but --sha256 says 0000" % digest)
        beside, lists = Path(str(self.f32) + ".sha256"), self.dir / "sums"
        for text, good in ((digest, True), (digest + "\n", True),
                           (digest + "  tiny.gguf\n", True), (digest + " *tiny.gguf\r\n", True),
                           (other + "  x\n" + digest + "  some/tiny.gguf\n", True),
                           (other + "  tiny.gguf\n", False), (digest + "  other.gguf\n", False),
                           (digest + "  not-tiny.gguf\n", False), ("", False),
                           (digest[:60] + "\n", False), ("\x00\xff\n" * 9, False)):
            for path in (beside, lists):
                path.write_text(text, errors="surrogateescape", newline="")
                args = ["verify", self.f32] + (["--check", path] if path is lists else [])
                r = tool(*args)
                self.assertEqual(r.returncode, 0 if good else 1, (text, r.stdout))
                self.assertIn("as in %s" % path if good else "FAILED", r.stdout)
                path.unlink()
        self.fails(1, "FAILED", "verify", self.f32, "-c", self.dir / "none", stdout=True)
        self.fails(2, "not 64 hexadecimal", "verify", self.f32, "--sha256", "abc")
        self.fails(2, "for one file", "verify", self.f32, self.wide, "--sha256", digest)
        self.fails(2, "exclude", "verify", self.f32, "--sha256", digest, "-c", lists)

    def test_bad_files(self):
        whole = self.f32.read_bytes()
        bad = self.dir / "broken.gguf"
        for content in (b"", b"hello", whole[:200], whole[:len(whole) // 2]):
            bad.write_bytes(content)
            page = self.fails(1, "broken.gguf: FAILED", "verify", bad, stdout=True)
            self.assertRegex(page, "container +FAILED .*broken.gguf")
            self.assertIn(hashlib.sha256(content).hexdigest(), page)
        self.fails(1, "1 of 2 files FAILED", "verify", self.f32, bad, stdout=True)
        self.fails(1, "FAILED", "verify", self.dir / "none.gguf", stdout=True)
        self.fails(1, "FAILED", "verify", self.dir, stdout=True)
        renamed = whole.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_oops.weig")
        bad.write_bytes(renamed)
        page = self.fails(1, "FAILED", "verify", bad, stdout=True)
        self.assertRegex(page, r"container +OK(.|\n)*model +FAILED .*blk.1.ffn_oops")
        bad.write_bytes(whole.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"))
        page = self.fails(1, "FAILED", "verify", bad, stdout=True)
        self.assertRegex(page, r"tokenizer +FAILED ")

    def test_exits(self):
        model = self.dir / "heads.gguf"
        self.ok("synth", "-o", model, "--exits", "1,2")
        side = self.dir / "heads.exits.gguf"
        self.assertRegex(self.ok("verify", model), "exits +OK +2 in .*heads.exits.gguf")
        self.assertRegex(self.ok("verify", side), "model +OK +exit heads alone")
        page = self.fails(1, "FAILED", "verify", self.f32, "--exits", side, stdout=True)
        self.assertRegex(page, r"model +OK(.|\n)*exits +FAILED ")


class Info(Case):
    def test_splits(self):
        model = self.dir / "many.gguf"
        self.ok("synth", "-o", model, "--layers", 20, "--exits", "4,9", "--type", "Q8_0")

        def splits(*args):
            info = json.loads(self.ok("info", model, "--json", *args))
            for s in info["splits"]:
                self.assertEqual(s["upload_bytes_per_token"],
                                 info["upload_bytes_per_token"])
            return [(s["cloud_from"], s["edge_to"], s["exit"]) for s in info["splits"]]

        both = (4, 9, True)
        self.assertEqual(splits(), [(4, 4, True), (9, 9, True), both])
        self.assertEqual(splits("--split", 5),
                         [(4, 4, True), (5, 5, False), (9, 9, True), both])
        self.assertEqual(splits("--splits", "all"),
                         [(i, i, i in (4, 9)) for i in range(1, 20)] + [both])
        self.assertEqual(splits("--splits", "none"), [])
        self.assertEqual([s[0] for s in splits("--exits", "none")],
                         [2, 5, 7, 10, 12, 15, 17])
        self.assertIn("after block 9 (exit)", self.ok("info", model, "--splits", "all"))
        self.fails(2, '--splits: "some" is none of exits, all, none', "info", model,
                   "--splits", "some")

    def test_memory_is_that_of_the_parts(self):
        info = json.loads(self.ok("info", self.f32, "--splits", "all", "--json"))
        for s in info["splits"]:
            parts = [self.dir / "p.edge.gguf", self.dir / "p.cloud.gguf"]
            self.ok("split", self.f32, "--cloud-from", s["cloud_from"], "--edge", parts[0],
                    "--cloud", parts[1])
            for part, key in zip(parts, ("edge", "cloud")):
                g = Gguf(part)
                self.assertEqual(sum(len(g.bytes(t)) for t in g.tensors),
                                 s[key + "_weight_bytes"])

    def test_graph(self):
        info = json.loads(self.ok("info", self.f32, "--json"))
        self.assertEqual(info["graph"]["rope_order"], "neighbours")
        self.assertFalse(info["graph"]["biases"] or info["graph"]["qk_norm"])
        self.assertAlmostEqual(info["bits_per_weight"], 32)
        page = self.ok("info", self.f32)
        for text in ("rope turns neighbours", "no biases", "chat   ", "32.00 bits each"):
            self.assertIn(text, page)


@unittest.skipUnless(MODEL.exists(), "no model")
class Real(Case):
    """SmolLM2: what a format costs in perplexity, on a few chunks of text."""

    def ppl(self, model):
        text = DATA / "text/wikitext2_raw_test_part1.txt"
        if not text.exists():
            self.skipTest("no " + str(text))
        return json.loads(self.ok("ppl", model, text, "--chunks", 20, "--json"))["perplexity"]

    def test_perplexity(self):
        """Within 3 %; Q2_K and Q3_K are not held to it."""
        source = self.ppl(MODEL)
        for kind in types():
            if kind in ("F32", "F16", "BF16", "Q2_K", "Q3_K"):
                continue
            self.ok("quantize", MODEL, "-o", self.out, "--type", kind, "-f")
            ratio = self.ppl(self.out) / source
            print("%s: perplexity %+.2f %%" % (kind, 100 * (ratio - 1)), flush=True)
            self.assertLess(ratio, 1.03, kind)


if __name__ == "__main__":
    unittest.main(verbosity=2)
