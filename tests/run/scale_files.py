#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scale_files.py - etc/kubernetes.yaml and etc/haproxy.cfg hold together: they parse,
their settings are cloudd's, and the times fit each other."""
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

BUILD = Path(os.environ.get("CECOLLM_BUILDDIR", ".")).resolve()
SRC = Path(os.environ.get("CECOLLM_SRCDIR", ".")).resolve()
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/sbin")

try:
    import yaml
except ImportError:
    yaml = None


def parse():
    """The documents by kind; the system's Python may have the parser that ours lacks."""
    text = (SRC / "etc/kubernetes.yaml").read_text()
    if yaml:
        return {d["kind"]: d for d in yaml.safe_load_all(text)}
    r = subprocess.run(["/usr/bin/python3", "-c", "import json, sys, yaml; print(json.dumps("
                        "list(yaml.safe_load_all(sys.stdin))))"], input=text, text=True,
                       capture_output=True)
    if r.returncode != 0:
        raise unittest.SkipTest("no yaml for Python")
    import json
    return {d["kind"]: d for d in json.loads(r.stdout)}


class Files(unittest.TestCase):
    def test_kubernetes(self):
        found = parse()
        self.assertEqual(sorted(found), ["ConfigMap", "PodDisruptionBudget", "Service",
                                         "StatefulSet"])
        state = found["StatefulSet"]["spec"]
        pod = state["template"]["spec"]
        cloudd = pod["containers"][0]
        labels = state["template"]["metadata"]["labels"]
        for selector in (state["selector"]["matchLabels"],
                         found["Service"]["spec"]["selector"],
                         found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]):
            self.assertEqual(selector, labels)
        self.assertEqual(state["serviceName"], found["Service"]["metadata"]["name"])
        ports = {p["name"]: p["containerPort"] for p in cloudd["ports"]}
        self.assertEqual(ports, {p["name"]: p["port"]
                                 for p in found["Service"]["spec"]["ports"]})
        self.assertEqual({v["name"] for v in pod["volumes"]},
                         {m["name"] for m in cloudd["volumeMounts"]})
        text = found["ConfigMap"]["data"]["cecollm.conf"]
        self.assertIn("listen = *:%d\n" % ports["agents"], text)
        self.assertIn("metrics_listen = *:%d\n" % ports["pages"], text)
        drain = int(re.search(r"drain_timeout = (\d+)s", text).group(1))
        pre_stop = int(cloudd["lifecycle"]["preStop"]["exec"]["command"][1])
        self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], pre_stop + drain + 10)
        self.assertEqual(cloudd["readinessProbe"]["httpGet"]["path"], "/readyz")
        # cloudd itself reads the settings: only the files are not there.
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "cecollm.conf")
            Path(path).write_text(text)
            r = subprocess.run([BUILD / "cecollm-cloudd", "-c", path, "--set",
                                cloudd["command"][-1].replace("$(POD)", "cloud-0"),
                                "--check-config"], capture_output=True, text=True)
            if r.returncode != 0:
                self.assertRegex(r.stderr, r"/(models|etc/cecollm)/", r.stderr)

    @unittest.skipUnless(HAPROXY, "no haproxy")
    def test_haproxy(self):
        r = subprocess.run([HAPROXY, "-c", "-q", "-f", SRC / "etc/haproxy.cfg"],
                           capture_output=True, text=True)
        self.assertEqual((r.returncode, r.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
