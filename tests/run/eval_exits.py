#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""eval_exits.py - cecollm-model eval-exits on a synthesised model, with what others
compute as the measure, its mistakes, what it records and how agents take that; and, where
it is at hand, on the real model."""
import json
import os
import re
import shutil
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
AGENT = (BUILD / "cecollm-agent").resolve()


def tool(*args, env=None):
    return subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True,
                          timeout=600, env={**os.environ, **(env or {})})


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = Path(tempfile.mkdtemp())

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    def ok(self, *args, **more):
        r = tool(*args, **more)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def fails(self, code, pattern, *args, **more):
        r = tool(*args, **more)
        self.assertEqual(r.returncode, code, r.stderr + r.stdout)
        self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)
        self.assertRegex(r.stderr, pattern)

    def evaluate(self, *args):
        return json.loads(self.ok("eval-exits", *args, "--json", "-"))


class Synthetic(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = cls.dir / "tiny.gguf"
        r = tool("synth", "-o", cls.model, "--layers", 6, "--type", "Q8_0", "--exits",
                 "2,4", "--seed", 3)
        assert r.returncode == 0, r.stderr
        cls.texts = ["Hello", "What is the sum of two and two?", "Name a colour. " * 9,
                     "b\u00e4rig \u2014 \U0001f600", "1, 2, 3, 4,"]
        cls.prompts = cls.dir / "few.jsonl"
        cls.prompts.write_text("\n".join(json.dumps({"prompt": t, "id": i})
                                         for i, t in enumerate(cls.texts)) + "\n\n")
        cls.common = [cls.model, "--prompts", cls.prompts, "--max-tokens", 20]

    def test_off_is_the_full_model(self):
        r = self.evaluate(*self.common, "--thetas", "0.2,0.4")
        off = r["frontier"][0]
        self.assertEqual(off["theta"], "2=1,4=1")
        self.assertEqual((off["request_rate"], off["rouge_l"], off["identical"]), (1, 1, 1))
        self.assertTrue(off["best"])
        self.assertEqual(r["sets"][0]["name"], "few")
        self.assertEqual(r["sets"][0]["prompts"], len(self.texts))
        self.assertEqual(r["exits"], r["sets"][0]["exits"])
        self.assertEqual([(e["layer"], e["theta"]) for e in r["exits"]],
                         [(2, 0.2), (2, 0.4), (4, 0.2), (4, 0.4)])
        self.assertEqual([p["rouge_l"] for p in r["paper"]], [0.9499, 0.9839])

    def test_against_the_agent(self):
        """What the whole model at the edge tells of its exits, token by token."""
        lines = subprocess.run([AGENT, "--model", self.model, "--mode", "edge-full",
                                "--prompts", self.prompts, "--max-tokens", "20", "--json",
                                "--trace"], capture_output=True, text=True, check=True)
        places = [{h["layer"]: h for h in t["heads"]}
                  for line in lines.stdout.splitlines() for t in json.loads(line)["tokens"]]
        r = self.evaluate(*self.common, "--thetas", "0.2,0.4,0.6")
        self.assertEqual(r["sets"][0]["tokens"], len(places))
        self.assertGreater(len(places), 10)
        for e in r["exits"]:
            heads = [p[e["layer"]] for p in places]
            agree = [p[e["layer"]]["id"] == p[0]["id"] for p in places]
            left = [h["confidence"] >= e["theta"] for h in heads]
            right = sum(a for a, b in zip(agree, left) if b)
            self.assertAlmostEqual(e["agreement"], sum(agree) / len(places), 6)
            self.assertAlmostEqual(e["exit_rate"], sum(left) / len(places), 6)
            if sum(left):
                self.assertAlmostEqual(e["precision"], right / sum(left), 6)
            else:
                self.assertIsNone(e["precision"])
            self.assertAlmostEqual(e["final_above"],
                                   sum(p[0]["confidence"] >= e["theta"] for p in places)
                                   / len(places), 6)
            bins = {}
            for h, a in zip(heads, agree):
                bins.setdefault(min(int(h["confidence"] * 15), 14), []).append(
                    h["confidence"] - a)
            self.assertAlmostEqual(e["agreement_error"], sum(abs(sum(b)) for b in
                                                             bins.values()) / len(places),
                                   5)

    def test_mistakes(self):
        p = self.dir / "bad.jsonl"
        common = ["eval-exits", self.model, "--prompts", p]
        for text, pattern in (("", "holds no prompt"), ("\n \n", "holds no prompt"),
                              ('{"prompt": "a"}\nhello\n', "line 2: not JSON"),
                              ('{"prompt": 3}\n', 'line 1: no object with a text "prompt"'),
                              ("[1]\n", 'line 1: no object with a text "prompt"'),
                              (json.dumps({"prompt": "long " * 2000}),
                               "line 1: a prompt of [0-9]+ tokens")):
            p.write_text(text)
            self.fails(1, re.escape(str(p)) + ": " + pattern, *common)
        self.fails(1, "No such file", "eval-exits", self.model, "-p", self.dir / "none")
        self.fails(1, "has no exits", "eval-exits", self.model, "-p", self.prompts,
                   "--exits", "none")
        self.fails(1, "--max-tokens 60000: the context is", *["eval-exits", *self.common[:3]],
                   "--max-tokens", 60000)
        ask = ["eval-exits", *self.common]
        self.fails(2, "--prompts is missing", "eval-exits", self.model)
        self.fails(2, "none of rouge=", *ask, "--choose", "speed=3")
        self.fails(2, "rouge=2", *ask, "--choose", "rouge=2")
        self.fails(2, "--choose", *ask, "--record")
        self.fails(2, "--choose", *ask, "--no-frontier", "--choose", "rouge=0.9")
        self.fails(2, "--thetas", *ask, "--thetas", "0.5,0.4")
        self.fails(2, "--thetas", *ask, "--thetas", "1")
        self.fails(2, "--rtt-ms", *ask, "--rtt-ms", "fast")
        self.fails(2, "needs --cloud-ms and --rtt-ms", *ask, "--thetas", "0.9", "--choose", "time=3")
        self.fails(1, "no setting has a request rate of 0; the nearest has", *ask,
                   "--thetas", "0.95", "--choose", "requests=0")
        self.fails(1, "gnuplot is not installed", *ask, "--plots", self.dir / "plots",
                   env={"PATH": str(self.dir)})
        self.fails(1, "in no file of their own", *ask, "--exit-layers", "3", "--choose",
                   "rouge=0.5", "--record")

    def test_plots(self):
        if not shutil.which("gnuplot"):
            self.skipTest("no gnuplot")
        out = self.dir / "it's plots"
        self.ok("eval-exits", *self.common, "--thetas", "0.1,0.2,0.4", "--plots", out)
        self.assertEqual(sorted(p.name for p in out.iterdir()),
                         ["few-exits.svg", "few-frontier.svg"])
        for p in out.iterdir():
            self.assertIn("</svg>", p.read_text())

    def test_record(self):
        model = self.dir / "own.gguf"
        shutil.copy(self.model, model)
        exits = self.dir / "own.exits.gguf"
        shutil.copy(self.dir / "tiny.exits.gguf", exits)
        self.assertIsNone(json.loads(self.ok("info", model, "--json"))["exits_record"])
        page = self.ok("eval-exits", model, *self.common[1:], "--thetas", "0.2,0.5",
                       "--choose", "rouge=1", "--record")
        theta = re.search(r"^theta = (2=[0-9.]+,4=[0-9.]+)$", page, re.M)[1]
        info = json.loads(self.ok("info", model, "--json"))
        record = info["exits_record"]
        self.assertEqual((record["set"], record["prompts"], record["rouge_l"]),
                         ("few", len(self.texts), 1))
        self.assertEqual(",".join("%d=%g" % (e["layer"], round(e["theta"], 6))
                                  for e in info["exits"]), theta)
        self.assertRegex(self.ok("info", model), "recorded on 5 prompts of few")
        # what else is in the file stays: judged again, the figures are the same
        again = self.evaluate(model, *self.common[1:], "--thetas", "0.2,0.5")
        before = self.evaluate(*self.common, "--thetas", "0.2,0.5")
        for p, q in zip(again["frontier"], before["frontier"]):
            self.assertEqual([p[k] for k in ("theta", "request_rate", "rouge_l")],
                             [q[k] for k in ("theta", "request_rate", "rouge_l")])

    def test_agent_leaves_out_exits_of_theta_one(self):
        model = self.dir / "off.gguf"
        shutil.copy(self.model, model)
        shutil.copy(self.dir / "tiny.exits.gguf", self.dir / "off.exits.gguf")
        # a round trip of nothing: no exit is worth its check
        page = self.ok("eval-exits", model, *self.common[1:], "--thetas", "0.99",
                       "--choose", "rouge=1", "--record", "--edge-ms-block", 1000,
                       "--cloud-ms", 0, "--rtt-ms", 0)
        self.assertIn("theta = 2=1,4=1", page)
        self.assertIn("suggested: off", self.ok("info", model))
        page = subprocess.run([AGENT, "--model", model, "--mode", "standalone", "--prompt",
                               "x", "--max-tokens", "4", "--json"], capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(page.returncode, 0, page.stderr)


@unittest.skipUnless(MODEL.exists() and (DATA / "alpaca.jsonl").exists(), "no real model")
class Real(Case):
    def test_alpaca(self):
        r = self.evaluate(MODEL, "--prompts", DATA / "alpaca.jsonl", "--limit", 6,
                          "--max-tokens", 32, "--thetas", "0.6,0.9")
        if not r["exits"]:
            self.skipTest("no exits beside the model")
        for e in r["exits"]:
            if not e["trust"]:  # an honest probability
                self.assertLess(e["exit_rate"], e["final_above"] + 0.2)
            self.assertGreater(e["precision"] or 1, 0.9 if e["theta"] == 0.9 else 0.6)
        by = {(e["layer"], e["theta"]): e for e in r["exits"]}
        shallow, deep = sorted({e["layer"] for e in r["exits"]})
        self.assertGreater(by[deep, 0.6]["agreement"], by[shallow, 0.6]["agreement"])
        self.assertGreater(by[deep, 0.6]["exit_rate"], by[deep, 0.9]["exit_rate"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
