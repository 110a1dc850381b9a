/* SPDX-License-Identifier: Apache-2.0
 * reference_data.c - finding and reading what an independent float32 implementation
 * computed.
 */
#include "tests/backend/reference_data.h"

#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "tests/unit/testdata.h"

const char *
reference_model(void)
{
    static char path[1024];

    return testdata_model(path, sizeof(path));
}

const char *
reference_file(const char *name)
{
    static char path[1024];

    return testdata_file(path, sizeof(path), name);
}

json_t *
reference_lines(const char *name)
{
    const char *path = reference_file(name);
    json_t *all = json_array(), *one;
    json_error_t why;
    FILE *f = path ? fopen(path, "re") : NULL;

    if (!f || !all) {
        if (f)
            fclose(f);
        json_decref(all);
        return NULL;
    }
    while ((one = json_loadf(f, JSON_DISABLE_EOF_CHECK, &why)) != NULL)
        json_array_append_new(all, one);
    fclose(f);
    if (json_array_size(all) > 0)
        return all;
    json_decref(all);
    return NULL;
}

int32_t *
reference_ints(const json_t *list, size_t *n)
{
    int32_t *v;

    *n = json_array_size(list);
    v = calloc(*n + 1, sizeof(*v));
    for (size_t i = 0; v && i < *n; i++)
        v[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return v;
}

double *
reference_doubles(const json_t *list, size_t *n)
{
    double *v;

    *n = json_array_size(list);
    v = calloc(*n + 1, sizeof(*v));
    for (size_t i = 0; v && i < *n; i++)
        v[i] = json_number_value(json_array_get(list, i));
    return v;
}
