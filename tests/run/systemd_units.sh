#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# systemd_units.sh - the unit files are right, and leave an attacker little: systemd's
# own judgement, offline. Skipped without systemd-analyze.
src=${CECOLLM_SRCDIR:-.}
build=${CECOLLM_BUILDDIR:-.}
worst=15 # exposure of 0 to 100; 1.5 as systemd-analyze prints it
tmp=$(mktemp -d) || exit 99
trap 'rm -rf "$tmp"' EXIT

command -v systemd-analyze >/dev/null &&
    systemd-analyze security --help 2>/dev/null | grep -q -e --offline || {
    echo 'skipped: no systemd-analyze with --offline'
    exit 77
}
failed=0
result() # status, what should be so
{
    if [ "$1" -eq 0 ]; then echo "ok - $2"; else
        echo "not ok - $2"
        sed 's/^/# /' "$tmp/log"
        failed=1
    fi
}

# Programs need not be installed for this.
unit=$tmp/cecollm-cloudd.service
sed -e "s|@bindir@|$(cd "$build" && pwd)|" -e "s|@sysconfdir@|/etc|" \
    "$src/etc/cecollm-cloudd.service.in" >"$unit"
cp "$src/etc/cecollm-cloudd.socket" "$tmp/"
! grep '@[a-z]*dir@' "$unit" >"$tmp/log"
result $? 'nothing is left to fill in'

systemd-analyze verify --man=no "$unit" "$tmp/cecollm-cloudd.socket" >"$tmp/log" 2>&1
status=0
grep -F cecollm "$tmp/log" >"$tmp/ours" && status=1 # it may complain of other units too
mv "$tmp/ours" "$tmp/log"
result $status 'systemd-analyze verify: service and socket'

systemd-analyze security --offline=true --threshold=$worst --no-pager "$unit" >"$tmp/log" 2>&1
result $? "systemd-analyze security: $(tail -n 1 "$tmp/log")"

# A drop-in is read where it lies beside its unit.
mkdir "$tmp/cecollm-cloudd.service.d" &&
    cp "$src/etc/cecollm-cloudd.service.d/cuda.conf" "$tmp/cecollm-cloudd.service.d/"
systemd-analyze security --offline=true --threshold=30 --no-pager "$unit" >"$tmp/log" 2>&1
result $? "with CUDA: $(tail -n 1 "$tmp/log")"
exit $failed
