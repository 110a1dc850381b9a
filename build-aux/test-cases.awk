# SPDX-License-Identifier: Apache-2.0
# test-cases.awk - count the cases of one test program: "passed failed skipped".
#
#   awk -v result=PASS -f build-aux/test-cases.awk program.log
#
# Reads TAP lines, as cmocka and our scripts write them, and the summary of Python's
# unittest. A program that writes neither is one case. `result` is automake's word
# on the program as a whole: when it failed, at least one case did.

/^(not )?ok [0-9]+ .*# *[Ss][Kk][Ii][Pp]/ { skip++; next }
/^not ok/ { fail++; next }
/^ok [0-9]/ { pass++; next }
/^Ran [0-9]+ tests? in / { ran = $2; next }
/^(OK|FAILED)( \(.*\))?$/ && ran {
    n = split($0, part, /[(,)]/)
    for (i = 1; i <= n; i++) {
        split(part[i], pair, "=")
        gsub(/ /, "", pair[1])
        if (pair[1] == "failures" || pair[1] == "errors") {
            fail += pair[2]
            ran -= pair[2]
        } else if (pair[1] == "skipped") {
            skip += pair[2]
            ran -= pair[2]
        }
    }
    pass += ran
    ran = 0
}
END {
    bad = result != "PASS" && result != "SKIP" && result != "XFAIL"
    if (bad && !fail)
        fail = 1
    if (!bad && !(pass + fail + skip)) {
        if (result == "SKIP")
            skip = 1
        else
            pass = 1
    }
    print pass + 0, fail + 0, skip + 0
}
