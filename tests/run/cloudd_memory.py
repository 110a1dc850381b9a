#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cloudd_memory.py - a real cloudd with less memory than its agents want: every token as
with plenty, evictions counted in /metrics, and never more in use than the budget."""
import hashlib
import os
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import cecollm_client as cc  # noqa: E402
from agent_run import BUILD, SRC, Case, Cloudd, answers  # noqa: E402
from cloudd_metrics import Pages, difference, rows, until  # noqa: E402

D, LAYERS, VOCAB, CUT = 64, 6, 320, 2
PAGE = 64 * 16 * 2 * 2 * 2  # positions, head_dim, kv heads, K and V, two bytes
N, PROMPT, DECODE = 12, 150, 8
AGENTS = ["agent", "two", "three"]


def said(token):
    """What must not depend on anything but the rows."""
    return token[3], token[4], token[8], token[5], token[6]


class Sequence:
    """One sequence in a session of its own, with a client that replays."""

    def __init__(self, cloudd, shape, seed, agent="agent", n=PROMPT + DECODE):
        self.s = cc.Session(cloudd, shape, context=cloudd.context(agent))
        self.data = rows(n, seed)
        self.limit = self.s.open(1, max_pos=n)
        self.id = self.sent = self.needs = 0

    def send(self, end):
        end = min(end, self.limit)
        while self.sent < end:
            n = min(40, end - self.sent)
            self.s.states(self.data[self.sent:self.sent + n], id=self.id, pos=self.sent)
            self.sent += n

    def answer(self, pos):
        self.s.ask(pos)
        while True:
            self.send(pos + 1)
            kind, f, payload = self.s.infer.expect(cc.TOKEN, cc.CREDIT, cc.NEED, timeout=60)
            if kind == cc.CREDIT:
                self.limit = f[2]
            elif kind == cc.NEED:
                self.id, self.limit = f[4], f[5]
                self.sent = min(self.sent, f[3])
                self.needs += 1
            else:
                return said(f)


class Watch:
    """Looks at /metrics again and again while a block runs."""

    def __init__(self, pages):
        self.pages, self.most_kv, self.most_rows = pages, 0, 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop.wait(0.02):
            m = self.pages.scrape()
            self.most_kv = max(self.most_kv, m["cecollm_kv_bytes"])
            self.most_rows = max(self.most_rows, m["cecollm_waiting_state_bytes"])

    def __enter__(self):
        self.before = self.pages.scrape()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.after = self.pages.scrape()

    def evicted(self, reason):
        return difference(self.before, self.after,
                          'cecollm_evictions_total{reason="%s"}' % reason)


class Memory(Case):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory(prefix="cecollm-")
        cls.model = cc.synth(str(BUILD), cls.tmp.name, "--layers", str(LAYERS), "--exits",
                             "2,4", "--ctx", "1024")
        with open(cls.model, "rb") as f:
            cls.shape = cc.Shape(hashlib.sha256(f.read()).digest(), CUT, LAYERS, D, VOCAB)

    @classmethod
    def tearDownClass(cls):
        cls.tmp.cleanup()

    def cloudd(self, *settings):
        cloudd = Cloudd(str(BUILD), str(SRC), self.model, self.tmp.name, "layer_from=2",
                        "threads=1", "metrics_listen=127.0.0.1:0", *settings, agents=AGENTS)
        self.addCleanup(lambda: self.assertEqual(cloudd.stop(), 0))
        return cloudd, Pages(cloudd)

    def in_turns(self, cloudd, before_end=lambda: None):
        """Every sequence asks for one position, then every one for the next."""
        seqs = [Sequence(cloudd, self.shape, i, AGENTS[i % 3]) for i in range(N)]
        with ThreadPoolExecutor(N) as pool:
            got = [list(pool.map(lambda s: s.answer(pos), seqs))
                   for pos in range(PROMPT - 1, PROMPT + DECODE)]
        before_end()
        for s in seqs:
            s.s.bye()
        return got, sum(s.needs for s in seqs)

    def test_a_quarter_of_the_pages(self):
        cloudd, pages = self.cloudd("kv_budget=0")
        wanted = N * 3 * (LAYERS - CUT) * PAGE
        whole, needs = self.in_turns(
            cloudd, lambda: until(lambda: pages.scrape()["cecollm_kv_bytes"] == wanted))
        self.assertEqual(needs, 0)
        for settings in ([], ["eager=never"], ["eager=always", "window=32"]):
            with self.subTest(settings=settings):
                cloudd, pages = self.cloudd("kv_budget=%d" % (wanted // 4), *settings)
                with Watch(pages) as w:
                    got, needs = self.in_turns(cloudd)
                self.assertEqual(got, whole)
                self.assertLessEqual(w.most_kv, wanted // 4)
                self.assertGreater(w.most_kv, wanted // 8)
                self.assertGreater(w.evicted("idle"), N // 2)
                self.assertGreaterEqual(needs, N // 2)
                self.assertEqual(difference(w.before, w.after, "cecollm_step_failures_total"),
                                 0)
                until(lambda: pages.scrape()["cecollm_sequences"] == 0)
                m = until(lambda: (lambda m: m if m["cecollm_kv_promised_bytes"] == 0 else None)
                          (pages.scrape()))
                self.assertEqual(m["cecollm_kv_free_pages"], wanted // 4 // PAGE)
                self.assertEqual(m["cecollm_kv_pages"], 0)
                for name in AGENTS:
                    self.assertEqual(m['cecollm_tenant_kv_bytes{tenant="%s"}' % name], 0)

    def test_hidden_states(self):
        """Nobody asks: rows are dropped at the budget, and come again."""
        n, count = 700, 10  # 1.8 MB, none of it computed before somebody asks
        cloudd, pages = self.cloudd("eager=never", "states_budget=1M")
        seqs = [Sequence(cloudd, self.shape, i, n=n) for i in range(count)]
        with Watch(pages) as w:
            for s in seqs:
                s.send(n)
            until(lambda: pages.scrape()['cecollm_evictions_total{reason="hidden_states"}'] >= 3)
            with ThreadPoolExecutor(count) as pool:
                got = list(pool.map(lambda s: s.answer(n - 1), seqs))
        self.assertLessEqual(w.most_rows, 1 << 20)
        self.assertGreater(w.most_rows, 1 << 19)
        self.assertGreaterEqual(sum(s.needs for s in seqs), 3)
        for s in seqs:
            s.s.bye()
        plenty, _ = self.cloudd()
        for i, s in enumerate([Sequence(plenty, self.shape, i, n=n) for i in range(count)]):
            self.assertEqual(s.answer(n - 1), got[i])
            s.s.bye()

    def test_more_than_all(self):
        """Too large alone is an error for that sequence, and for it alone."""
        cloudd, _ = self.cloudd("kv_budget=%d" % (2 * (LAYERS - CUT) * PAGE))
        s, other = Sequence(cloudd, self.shape, 1), Sequence(cloudd, self.shape, 2)
        self.assertTrue(other.answer(100))
        s.s.ask(PROMPT)
        kind, f, _ = s.s.infer.expect(cc.ERROR)
        self.assertEqual((kind, f[0], f[2]), (cc.ERROR, cc.EQUOTA, 1))
        self.assertRegex(f[1], r"\d+ positions take \d+ bytes of KV, the server has \d+")
        self.assertTrue(other.answer(101))
        for x in (s, other):
            x.s.bye()

    def test_silent_sequences_end(self):
        cloudd, pages = self.cloudd("seq_idle_timeout=1s")
        s = Sequence(cloudd, self.shape, 1)
        s.answer(20)
        begin = time.monotonic()
        kind, f, _ = s.s.infer.expect(cc.ERROR, timeout=30)
        self.assertEqual((f[0], f[2]), (cc.ETIMEOUT, 1))
        self.assertGreater(time.monotonic() - begin, 0.5)
        s.s.bye()
        until(lambda: pages.scrape()["cecollm_sequences"] == 0)

    def test_real_agents(self):
        """Six at once; each answer is the whole model's, hash for hash."""
        prompts = [("%d: " % i) + "the lazy dog sleeps, the quick fox does not. " * 4
                   for i in range(6)]
        common = ["-m", self.model, "--threads", 1, "--max-tokens", 24]
        whole = answers(prompts, *common, "--mode", "edge-full")
        wanted = 6 * 4 * (LAYERS - CUT) * PAGE
        cloudd, pages = self.cloudd("kv_budget=%d" % (wanted // 4))

        def ask(i):
            return answers(prompts[i:i + 1], *common, "--codec", "f32", "--theta", "1",
                           cloud=cloudd, agent=AGENTS[i % 3])[0]

        with Watch(pages) as w, ThreadPoolExecutor(6) as pool:
            got = list(pool.map(ask, range(6)))
        for a, b in zip(whole, got):
            b["id"] = a["id"]
            self.same(a, b)
            self.assertEqual(b["counts"]["cloud"], len(b["ids"]))
        self.assertLessEqual(w.most_kv, wanted // 4)
        self.assertGreater(w.evicted("idle") + w.evicted("waiting"), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
