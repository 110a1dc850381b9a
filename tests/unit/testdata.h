/* SPDX-License-Identifier: Apache-2.0
 * testdata.h - where unit tests find fixtures and the real model. Each test program
 * includes this once; without the files a test says what is missing and skips.
 */
#ifndef CE_TESTS_TESTDATA_H
#define CE_TESTS_TESTDATA_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* PATH of a file below the data folder (CECOLLM_DATA, or ../shared/data beside the
 * source tree); NULL when it is not there. The buffer is the caller's. */
static inline const char *
testdata_file(char *buf, size_t size, const char *name)
{
    const char *data = getenv("CECOLLM_DATA"), *src = getenv("CECOLLM_SRCDIR");

    if (data != NULL && data[0] != '\0')
        snprintf(buf, size, "%s/%s", data, name);
    else
        snprintf(buf, size, "%s/../shared/data/%s", src != NULL ? src : ".", name);
    if (access(buf, R_OK) == 0)
        return buf;
    printf("skipped: %s is not there\n", buf);
    return NULL;
}

/* PATH of the real model (CECOLLM_MODEL, or below models/); NULL without it. */
static inline const char *
testdata_model(char *buf, size_t size)
{
    const char *model = getenv("CECOLLM_MODEL"), *src = getenv("CECOLLM_SRCDIR");

    if (model != NULL && model[0] != '\0')
        snprintf(buf, size, "%s", model);
    else
        snprintf(buf, size, "%s/models/SmolLM2-135M-Instruct.Q4_1.gguf",
                 src != NULL ? src : ".");
    if (access(buf, R_OK) == 0)
        return buf;
    printf("skipped: %s is not there (quickstart.sh fetches it)\n", buf);
    return NULL;
}

#endif
