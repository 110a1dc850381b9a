/* SPDX-License-Identifier: Apache-2.0
 * cmd_split.c - cecollm-model split: a model's edge part and cloud part as files.
 *
 * With exits after l1 < ... < ln the edge gets blocks 0 .. ln-1 and the exit heads,
 * the cloud blocks l1 .. L-1 and the final head: they overlap, as in the paper,
 * because an edge that is not sure after l1 goes on by itself. Every part carries
 * the fingerprint of its model, so the two sides recognise each other.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/command.h"
#include "tools/partition.h"
#include "tools/progress.h"
#include "tools/units.h"

struct split_args {
    const char *file, *exits;
    struct options_list exit_layers;
    const char *edge_path, *cloud_path;
    int cloud_from, edge_to;
};

/* FILE.gguf becomes FILE.edge.gguf; allocated. */
static char *
default_path(const char *file, const char *side)
{
    size_t len = strlen(file), size = len + strlen(side) + sizeof("..gguf");
    char *out = malloc(size);

    if (len > 5 && strcmp(file + len - 5, ".gguf") == 0)
        len -= 5;
    if (out)
        snprintf(out, size, "%.*s.%s.gguf", (int)len, file, side);
    return out;
}

/* Neither part may replace the source or the other part. */
static int
check_paths(const char *source, const char *edge, const char *cloud, struct err *err)
{
    const char *out[] = { edge, cloud };
    struct stat s, t;

    if (strcmp(edge, cloud) == 0)
        return err_set(err, CE_EINVAL, "%s: both parts would go into this file", edge);
    if (stat(source, &s) != 0)
        return err_set(err, CE_EIO, "%s: %s", source, strerror(errno));
    for (int i = 0; i < 2; i++) {
        if (stat(out[i], &t) == 0 && t.st_dev == s.st_dev && t.st_ino == s.st_ino)
            return err_set(err, CE_EINVAL, "%s: a part would replace the model", out[i]);
    }
    return 0;
}

/* Where the range ends that were not given: at the first and the last exit. */
static int
choose_range(const struct model *m, struct split_args *a, struct err *err)
{
    int n = m->config.n_layers;

    if (a->cloud_from == 0 && m->n_exits > 0)
        a->cloud_from = m->exits[0].layer;
    if (a->cloud_from == 0)
        return err_set(err, CE_EINVAL,
                       "%s: has no exits, so --cloud-from must say where to split",
                       a->file);
    if (a->edge_to == 0)
        a->edge_to = m->n_exits > 0 ? m->exits[m->n_exits - 1].layer : a->cloud_from;
    if (a->cloud_from >= n || a->edge_to > n || a->cloud_from > a->edge_to)
        return err_set(err, CE_EINVAL,
                       "%s: an edge to block %d and a cloud from block %d do not make a "
                       "model of %d blocks",
                       a->file, a->edge_to, a->cloud_from, n);
    return 0;
}

/* Write one part and open it again: what was written must load. */
static int
write_part(const struct partition *p, const char *path, const char *side, struct err *err)
{
    struct model *check = NULL;
    char bytes[UNITS_TEXT];
    int rc;

    if ((rc = partition_write(p, path, err)) ||
        (rc = model_open(&check, path, "none", err)))
        return rc;
    printf("%-5s  blocks %2d to %2d  %8s  %s\n", side, p->layer_from, p->layer_to - 1,
           units_bytes(bytes, (double)gguf_size_bytes(check->file)), path);
    model_close(check);
    return 0;
}

static int
split(struct split_args *a, struct err *err)
{
    char *edge = NULL, *cloud = NULL;
    struct progress_busy *busy = progress_busy_start("splitting");
    struct model *m = NULL;
    struct partition p;
    int rc;

    edge = a->edge_path ? strdup(a->edge_path) : default_path(a->file, "edge");
    cloud = a->cloud_path ? strdup(a->cloud_path) : default_path(a->file, "cloud");
    if (!edge || !cloud) {
        rc = err_set(err, CE_ENOMEM, "no memory");
        goto out;
    }
    if ((rc = command_open_model(&m, a->file, a->exits, &a->exit_layers, err)) ||
        (rc = choose_range(m, a, err)) || (rc = check_paths(a->file, edge, cloud, err)))
        goto out;
    p = (struct partition){ m, 0, a->edge_to, true };
    if ((rc = write_part(&p, edge, "edge", err)))
        goto out;
    p = (struct partition){ m, a->cloud_from, m->config.n_layers, false };
    rc = write_part(&p, cloud, "cloud", err);
out:
    progress_busy_end(busy);
    model_close(m);
    free(edge);
    free(cloud);
    return rc;
}

int
cmd_split(int argc, char **argv)
{
    struct split_args a = { 0 };
    struct err err = { 0 };
    const struct option_spec specs[] = {
        { "cloud-from", 0, OPTIONS_INT, &a.cloud_from, "L",
          "the cloud's blocks start after block L (default: first exit)", 1, 1024 },
        { "edge-to", 0, OPTIONS_INT, &a.edge_to, "L",
          "the edge's blocks are the first L (default: last exit)", 1, 1024 },
        { "edge", 0, OPTIONS_TEXT, &a.edge_path, "PATH",
          "edge file (default: FILE.edge.gguf)", 0, 0 },
        { "cloud", 0, OPTIONS_TEXT, &a.cloud_path, "PATH",
          "cloud file (default: FILE.cloud.gguf)", 0, 0 },
        COMMAND_EXITS_OPTION(&a.exits),
        COMMAND_EXIT_LAYERS_OPTION(&a.exit_layers),
        { 0 }
    };
    const struct options_page page = {
        "split FILE [--cloud-from L] [--edge-to L] [--edge PATH] [--cloud PATH]",
        "Write the parts of a model that edge and cloud need. The edge's part has the\n"
        "embedding, the blocks up to the last exit and the exit heads; the cloud's part\n"
        "the blocks after the first exit and the final head. A part works wherever the\n"
        "whole file does, for its blocks, under the same fingerprint.",
        specs, 1, 1
    };
    int n, status;

    if (!command_options(&page, argc, argv, &n, &status))
        return status;
    a.file = argv[1];
    if (split(&a, &err) != 0)
        return command_failed("split", &err);
    return COMMAND_OK;
}
