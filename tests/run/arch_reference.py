#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""arch_reference.py - every architecture against a forward pass written here.

NumPy in double precision, one position's attention after another, and files read with
the Python package gguf: nothing is shared with the engine. The only rounding repeated is
that of K and V to half precision, which the engine's cache is defined to do
(doc/NUMERICS.md, 6); what remains in a model of F32 is the engine's float arithmetic.
Quantised matrices are read through int8 activations, whose noise is far larger, so there
the bound is wide: a mistake in the graph costs whole units of a logit all the same.
"""
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import gguf
    import gguf.quants
    import numpy as np
except ImportError as e:
    print("skipped: %s" % e)
    sys.exit(77)

BUILD = Path(os.environ.get("CECOLLM_BUILDDIR", "."))
TOOL = (BUILD / "cecollm-model").resolve()
SKIP_ROPE = {"smollm3": 4}  # of so many blocks the last is without
HALVES = {"qwen2", "qwen3"}
N_PROMPT, N_OUTPUT = 5, 55

# Of a logit; logits spread by about 4. Measured over four seeds: F32 at most 1.2e-2 and
# 1.2e-3 on average (a K or V that falls on the other side of a half; without that rounding
# here 4e-2 and 4.5e-3), quantised at most 1.7 and 0.21 on average.
F32_WORST, F32_MEAN = 2e-2, 2e-3
QUANTISED_WORST, QUANTISED_MEAN = 2.5, 0.3


class File:
    """A model file's keys and tensors as plain values and float64 arrays."""

    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.tensors = {t.name: t for t in self.reader.tensors}
        self.arch = self.reader.get_field("general.architecture").contents()

    def key(self, name, default=None):
        field = self.reader.get_field(self.arch + "." + name)
        return default if field is None else field.contents()

    def tensor(self, name):
        """[rows, columns], or [n]; None when the file has none."""
        t = self.tensors.get(name)
        if t is None:
            return None
        return gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64)


def rms(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def plus(x, bias):
    return x if bias is None else x + bias


def half(x):
    return x.astype(np.float32).astype(np.float16).astype(np.float64)


class Reference:
    def __init__(self, path, round_kv=True):
        f = self.file = File(path)
        self.round_kv = round_kv
        self.n_layers = f.key("block_count")
        self.n_heads = f.key("attention.head_count")
        self.n_kv = f.key("attention.head_count_kv", self.n_heads)
        self.head_dim = f.key("attention.key_length",
                              f.key("embedding_length") // self.n_heads)
        self.eps = f.key("attention.layer_norm_rms_epsilon")
        n_rot = f.key("rope.dimension_count", self.head_dim)
        i = np.arange(n_rot // 2)
        self.frequencies = float(f.key("rope.freq_base", 10000.0)) ** (-2.0 * i / n_rot)
        if f.key("rope.scaling.type") == "linear":
            self.frequencies = self.frequencies / f.key("rope.scaling.factor")
        if f.tensor("rope_freqs.weight") is not None:
            self.frequencies = self.frequencies / f.tensor("rope_freqs.weight")
        if f.arch in HALVES:
            self.first, self.second = i, i + n_rot // 2
        else:
            self.first, self.second = 2 * i, 2 * i + 1

    def rope(self, x):
        """x: [n, heads, head_dim], positions 0 .. n-1."""
        angles = np.outer(np.arange(len(x)), self.frequencies)[:, None, :]
        a, b = x[..., self.first], x[..., self.second]
        y = x.copy()
        y[..., self.first] = a * np.cos(angles) - b * np.sin(angles)
        y[..., self.second] = a * np.sin(angles) + b * np.cos(angles)
        return y

    def attention(self, x, block):
        def w(name):
            return self.file.tensor("blk.%d.%s" % (block, name))

        n = len(x)
        q = plus(x @ w("attn_q.weight").T, w("attn_q.bias")).reshape(n, self.n_heads, -1)
        k = plus(x @ w("attn_k.weight").T, w("attn_k.bias")).reshape(n, self.n_kv, -1)
        v = plus(x @ w("attn_v.weight").T, w("attn_v.bias")).reshape(n, self.n_kv, -1)
        if w("attn_q_norm.weight") is not None:
            q = rms(q, w("attn_q_norm.weight"), self.eps)
            k = rms(k, w("attn_k_norm.weight"), self.eps)
        skip = SKIP_ROPE.get(self.file.arch)
        if skip is None or (block + 1) % skip != 0:
            q, k = self.rope(q), self.rope(k)
        if self.round_kv:
            k, v = half(k), half(v)
        out = np.zeros_like(q)
        for t in range(n):
            for h in range(self.n_heads):
                kv = h // (self.n_heads // self.n_kv)
                s = k[:t + 1, kv] @ q[t, h] / np.sqrt(self.head_dim)
                p = np.exp(s - s.max())
                out[t, h] = p / p.sum() @ v[:t + 1, kv]
        return plus(out.reshape(n, -1) @ w("attn_output.weight").T, w("attn_output.bias"))

    def feed_forward(self, x, block):
        def w(name):
            return self.file.tensor("blk.%d.%s.weight" % (block, name))

        gate, up = x @ w("ffn_gate").T, x @ w("ffn_up").T
        return (gate / (1 + np.exp(-gate)) * up) @ w("ffn_down").T

    def logits(self, ids):
        f = self.file
        embedding = f.tensor("token_embd.weight")
        x = embedding[ids]
        for i in range(self.n_layers):
            x = x + self.attention(
                rms(x, f.tensor("blk.%d.attn_norm.weight" % i), self.eps), i)
            x = x + self.feed_forward(
                rms(x, f.tensor("blk.%d.ffn_norm.weight" % i), self.eps), i)
        output = f.tensor("output.weight")
        return rms(x, f.tensor("output_norm.weight"), self.eps) @ (
            embedding if output is None else output).T


def tool(*args, text=None):
    r = subprocess.run([TOOL, *map(str, args)], input=text, capture_output=True, text=True,
                       timeout=600)
    if r.returncode != 0:
        raise AssertionError("cecollm-model %s: %s" % (args[0], r.stderr))
    return r.stdout


# Name, options of synth; each in F32 and in the formats named.
VARIANTS = [
    ("llama, tied", [], ["Q8_0", "Q4_1"]),
    ("llama, untied", ["--untied", "--kv-heads", 4], ["Q8_0"]),
    ("llama, four heads on one", ["--kv-heads", 1], []),
    ("llama, biases", ["--biases"], ["Q4_1"]),
    ("llama, linear scaling", ["--rope-scale", 4], ["Q8_0"]),
    ("llama, factors for each frequency", ["--rope-base", 500000, "--rope-freqs",
                                           "--head-dim", 32], ["Q8_0", "Q4_1"]),
    ("llama, both scalings", ["--rope-scale", 2, "--rope-freqs"], []),
    ("llama, rope of a part", ["--head-dim", 32, "--n-rot", 20], ["Q8_0"]),
    ("qwen2", ["--arch", "qwen2", "--rope-base", 1000000], ["Q8_0", "Q4_1"]),
    ("qwen2, untied, wide heads", ["--arch", "qwen2", "--untied", "--head-dim", 48], []),
    ("qwen2, rope of a part", ["--arch", "qwen2", "--head-dim", 32, "--n-rot", 12], []),
    ("qwen3", ["--arch", "qwen3", "--rope-base", 1000000, "--head-dim", 32],
     ["Q8_0", "Q4_1"]),
    ("qwen3, untied, linear scaling", ["--arch", "qwen3", "--untied", "--rope-scale", 3],
     ["Q8_0"]),
    ("smollm3", ["--arch", "smollm3", "--layers", 9], ["Q8_0", "Q4_1"]),
    ("smollm3, biases", ["--arch", "smollm3", "--biases"], []),
]


class Architectures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory(prefix="cecollm-")
        cls.model = Path(cls.tmp.name) / "model.gguf"
        cls.ids = [int(i) for i in np.random.default_rng(5).integers(0, 320, 60)]

    @classmethod
    def tearDownClass(cls):
        cls.tmp.cleanup()

    def make(self, options, kind):
        tool("synth", "-o", self.model, "--ctx", 64, "--type", kind, *options)

    def engine(self, *options):
        line = {"prompt_ids": self.ids[:N_PROMPT], "output_ids": self.ids[N_PROMPT:]}
        r = json.loads(tool("score", self.model, "-", "--logits", "--threads", 1, *options,
                            text=json.dumps(line)))
        return np.array(r["logits"]), r["argmax"]

    def compare(self, name, worst, mean):
        want = Reference(self.model).logits(self.ids)[N_PROMPT - 1:-1]
        got, argmax = self.engine()
        self.assertEqual(got.shape, want.shape)
        self.assertEqual(got.shape[0], N_OUTPUT)
        off = np.abs(got - want)
        top = np.sort(want, axis=1)
        sure = top[:, -1] - top[:, -2] > 2 * min(worst, off.max())
        print("%s: off by %.1e on average, %.1e at most; %d of %d argmax compared" %
              (name, off.mean(), off.max(), sure.sum(), len(sure)), file=sys.stderr)
        self.assertLess(off.max(), worst, name)
        self.assertLess(off.mean(), mean, name)
        self.assertGreater(sure.sum(), 0)
        self.assertTrue((want.argmax(axis=1) == argmax)[sure].all(), name)
        self.assertEqual(list(got.argmax(axis=1)), argmax)

    def test_plain(self):
        for name, options, _ in VARIANTS:
            with self.subTest(name):
                self.make(options, "F32")
                self.compare(name + ", F32", F32_WORST, F32_MEAN)

    def test_quantised(self):
        for name, options, kinds in VARIANTS:
            for kind in kinds:
                with self.subTest(name + ", " + kind):
                    self.make(options, kind)
                    self.compare(name + ", " + kind, QUANTISED_WORST, QUANTISED_MEAN)

    def test_the_tolerance_sees_mistakes(self):
        """What a wrong order, a left-out norm, bias or factor would change."""
        wrong = {
            ("--arch", "qwen2"): lambda r: r.file.tensors.pop("blk.1.attn_v.bias"),
            ("--arch", "qwen3"): lambda r: (r.file.tensors.pop("blk.1.attn_q_norm.weight"),
                                            r.file.tensors.pop("blk.1.attn_k_norm.weight")),
            ("--rope-freqs",): lambda r: setattr(
                r, "frequencies", r.frequencies * r.file.tensor("rope_freqs.weight")),
            ("--arch", "smollm3"): lambda r: setattr(r.file, "arch", "llama"),
            (): lambda r: (setattr(r, "first", np.arange(8)),
                           setattr(r, "second", np.arange(8, 16))),
        }
        for options, spoil in wrong.items():
            self.make(options, "F32")
            keys = Reference(self.model)
            spoil(keys)
            off = np.abs(keys.logits(self.ids)[N_PROMPT - 1:-1] - self.engine()[0])
            self.assertGreater(off.max(), 10 * F32_WORST, options)

    def test_a_split_model_keeps_its_tensors(self):
        """The cloud's part has its own copy of what all blocks need."""
        out = Path(self.tmp.name) / "parts"
        out.mkdir()
        tool("synth", "-o", out / "whole.gguf", "--arch", "qwen3", "--rope-freqs",
             "--biases", "--exits", "2")
        tool("split", out / "whole.gguf", "--edge", out / "edge.gguf", "--cloud",
             out / "cloud.gguf")
        whole = File(out / "whole.gguf")
        parts = [File(out / n) for n in ("edge.gguf", "cloud.gguf")]
        for name, t in whole.tensors.items():
            holders = [p for p in parts if name in p.tensors]
            self.assertTrue(holders, name)
            if name == "rope_freqs.weight":
                self.assertEqual(len(holders), 2)
            for p in holders:
                self.assertTrue((p.tensors[name].data == t.data).all(), name)


if __name__ == "__main__":
    unittest.main()
