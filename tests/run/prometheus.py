#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""prometheus.py - a real Prometheus scrapes a real cloudd that a real agent uses: the
target is up, with a token only, and its series say what was done. promtool finds
nothing to say about the page. Skipped where Prometheus is not installed."""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

import agent_run
from agent_run import Cloudd, answers
from cecollm_client import synth

TOKEN = "a-token-of-32-characters-or-more"
PROMPTS = ["the lazy dog", "once upon a time", "to be or not to be"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Prometheus:
    def __init__(self, folder, target, token_file):
        self.port = free_port()
        path = os.path.join(folder, "prometheus.yml")
        with open(path, "w") as f:
            f.write("global: { scrape_interval: 250ms, scrape_timeout: 250ms }\n"
                    "scrape_configs:\n"
                    "  - job_name: cecollm\n"
                    "    authorization: { credentials_file: %s }\n"
                    "    static_configs: [ { targets: ['%s'] } ]\n"
                    "  - job_name: stranger\n"
                    "    static_configs: [ { targets: ['%s'] } ]\n"
                    % (token_file, target, target))
        subprocess.run(["promtool", "check", "config", path], check=True,
                       stdout=subprocess.DEVNULL)
        self.log = open(os.path.join(folder, "prometheus.log"), "w+")
        self.process = subprocess.Popen(
            ["prometheus", "--config.file=" + path, "--storage.tsdb.path=" +
             os.path.join(folder, "tsdb"), "--web.listen-address=127.0.0.1:%d" % self.port],
            stdout=self.log, stderr=self.log)

    def ask(self, query):
        """The value of one series, or None while there is none."""
        url = "http://127.0.0.1:%d/api/v1/query?%s" % (
            self.port, urllib.parse.urlencode({"query": query}))
        try:
            with urllib.request.urlopen(url, timeout=20) as r:
                found = json.load(r)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            return None
        assert len(found) <= 1, (query, found)
        return float(found[0]["value"][1]) if found else None

    def await_value(self, query, wanted, timeout=60):
        deadline = time.monotonic() + timeout
        while (got := self.ask(query)) is None or not wanted(got):
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.log.seek(0)
                raise AssertionError("%s is %s\n%s" % (query, got, self.log.read()[-3000:]))
            time.sleep(0.1)
        return got

    def stop(self):
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


def page(target):
    request = urllib.request.Request("http://%s/metrics" % target,
                                     headers={"Authorization": "Bearer " + TOKEN})
    with urllib.request.urlopen(request, timeout=20) as r:
        return r.read().decode()


def main():
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            print("skipped: no " + program)
            sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="cecollm-") as folder:
        token_file = os.path.join(folder, "token")
        with open(token_file, "w") as f:
            f.write(TOKEN + "\n")
        os.chmod(token_file, 0o600)
        model = synth(str(agent_run.BUILD), folder, "--layers", "6", "--exits", "2,4")
        cloud = Cloudd(str(agent_run.BUILD), str(agent_run.SRC), model, folder,
                       "metrics_listen=127.0.0.1:0", "metrics_token=" + token_file)
        target = "127.0.0.1:" + re.search(r"metrics address=\S+ port=(\d+)",
                                          cloud.log()).group(1)
        prometheus = Prometheus(folder, target, token_file)
        try:
            prometheus.await_value('up{job="cecollm"}', lambda v: v == 1)
            prometheus.await_value('up{job="stranger"}', lambda v: v == 0)
            assert prometheus.ask("cecollm_ready") == 1
            said = answers(PROMPTS, "-m", model, "--threads", 1, "--theta", "1",
                           "--max-tokens", 20, cloud=cloud)
            n = sum(len(a["ids"]) for a in said)
            is_n = lambda v: v == n  # noqa: E731
            prometheus.await_value("sum(cecollm_tenant_tokens_total)", is_n)
            prometheus.await_value('cecollm_token_seconds_count{job="cecollm"}', is_n)
            prometheus.await_value("sum(cecollm_tenant_requests_total)", is_n)
            prometheus.await_value("cecollm_sessions", lambda v: v == 0)
            prometheus.await_value("cecollm_kv_bytes", lambda v: v == 0)
            p = prometheus.await_value(
                "histogram_quantile(0.5, sum by (le) (cecollm_step_seconds_bucket))",
                lambda v: 0 < v < 60)
            print("%d tokens, half of the steps took less than %.1f us" % (n, p * 1e6))
            check = subprocess.run(["promtool", "check", "metrics"], input=page(target),
                                   text=True, capture_output=True)
            assert (check.returncode, check.stdout, check.stderr) == (0, "", ""), check
            status = cloud.stop()
            assert status == 0, status
            prometheus.await_value('up{job="cecollm"}', lambda v: v == 0)
        except BaseException:
            sys.stderr.write(cloud.log()[-3000:])
            raise
        finally:
            prometheus.stop()
            if cloud.process.poll() is None:
                cloud.process.kill()
                cloud.process.wait()


if __name__ == "__main__":
    main()
