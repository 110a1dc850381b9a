/* SPDX-License-Identifier: Apache-2.0
 * conffile.c - the settings parser over inih.
 *
 * inih splits lines; this file gives them meaning. It does not tell a handler
 * the line number, cuts long section names, joins indented lines to the value
 * above and never mentions an empty section, so the reader that feeds it counts
 * lines, strips indentation, refuses lines that do not fit and takes note of
 * [section] lines itself. The first error wins; what follows is skipped.
 *
 * Values are in conffile_value.c.
 */
#include "common/conffile.h"

#include <errno.h>
#include <ini.h>
#include <stdbool.h>
#include <string.h>

#include "common/conffile_value.h"
#include "common/memory.h"

/* A key that was set in this file: twice is an error. */
struct seen {
    const void *base;
    const struct conffile_key *key; /* NULL: the family member `base` itself */
    int line;
};

struct load {
    const struct conffile_schema *schema;
    void *settings;
    const char *path;
    FILE *file;
    int line; /* the line that inih is at, from 1 */
    const struct conffile_section *section;
    void *base;                     /* where the fields of the current section are */
    char member[CONFFILE_MAX_LINE]; /* the family member that base is; "": none */
    int member_line;
    char (*labels)[CONFFILE_MAX_LINE];
    int n_labels;
    struct seen *seen;
    int n_seen;
    struct err *err;
    const struct conffile_watch *watch; /* or NULL */
    int rc;                             /* the first error */
    int rc_line;                        /* and its line */
};

static int
fail(struct load *l, int code, const char *name, const char *what)
{
    struct err mine = { 0 };

    if (l->rc != CE_OK && l->watch == NULL)
        return l->rc;
    err_set(&mine, code, "%s:%d: %s%s%s", l->path, l->line, name,
            name[0] != '\0' ? ": " : "", what);
    if (l->watch != NULL)
        l->watch->problem(l->watch->arg, mine.text);
    if (l->rc == CE_OK) {
        l->rc_line = l->line;
        l->rc = code;
        if (l->err != NULL)
            *l->err = mine;
    }
    return code;
}

/* Without a watch nothing is looked at behind the first error. */
static bool
is_over(const struct load *l)
{
    return l->rc != CE_OK && l->watch == NULL;
}

static const struct conffile_section *
find_section(const struct conffile_schema *schema, const char *name, size_t len)
{
    for (int i = 0; i < schema->n_sections; i++) {
        const struct conffile_section *s = &schema->sections[i];

        if (strlen(s->name) == len && memcmp(s->name, name, len) == 0)
            return s;
    }
    return NULL;
}

static const struct conffile_key *
find_key(const struct conffile_section *section, const char *name)
{
    for (int i = 0; i < section->n_keys; i++)
        if (strcmp(section->keys[i].name, name) == 0)
            return &section->keys[i];
    return NULL;
}

static int
section_defaults(const struct conffile_section *section, void *base, struct err *err)
{
    for (int i = 0; i < section->n_keys; i++) {
        const struct conffile_key *key = &section->keys[i];
        char why[200];
        int rc;

        if (key->def == NULL)
            continue;
        rc = conffile_value_set(key, base, key->def, why, sizeof(why));
        if (rc != CE_OK)
            return err_set(err, rc == CE_ENOMEM ? rc : CE_EINTERNAL, "default of %s: %s",
                           key->name, why);
    }
    return CE_OK;
}

int
conffile_defaults(const struct conffile_schema *schema, void *settings, struct err *err)
{
    for (int i = 0; i < schema->n_sections; i++) {
        int rc = CE_OK;

        if (schema->sections[i].open == NULL)
            rc = section_defaults(&schema->sections[i], settings, err);
        if (rc != CE_OK)
            return rc;
    }
    return CE_OK;
}

/* ---- a file ---- */

/* Note that (base, key) is set now; nonzero when it was already. */
static int
see(struct load *l, const void *base, const struct conffile_key *key, const char *name)
{
    struct seen *more;
    char what[64];

    if (key->many)
        return CE_OK;
    /* From the last: a member's keys stand together, others need not be looked at. */
    for (int i = l->n_seen - 1; i >= 0; i--) {
        if (l->seen[i].base != base && base != l->settings)
            break;
        if (l->seen[i].base != base || l->seen[i].key != key)
            continue;
        snprintf(what, sizeof(what), "already set in line %d", l->seen[i].line);
        return fail(l, CE_EINVAL, name, what);
    }
    more = mem_array_resize(l->seen, (size_t)l->n_seen + 1, sizeof(*l->seen));
    if (more == NULL)
        return fail(l, CE_ENOMEM, name, err_name(CE_ENOMEM));
    l->seen = more;
    l->seen[l->n_seen++] = (struct seen){ base, key, l->line };
    return CE_OK;
}

/* [name LABEL] of a family: make its struct, once per label. */
static int
open_member(struct load *l, const char *label)
{
    char(*more)[CONFFILE_MAX_LINE];
    struct err why = { 0 };
    int rc;

    for (int i = 0; i < l->n_labels; i++)
        if (strcmp(l->labels[i], label) == 0)
            return fail(l, CE_EINVAL, label, "this section is already there");
    more = mem_array_resize(l->labels, (size_t)l->n_labels + 1, sizeof(*l->labels));
    if (more == NULL)
        return fail(l, CE_ENOMEM, label, err_name(CE_ENOMEM));
    l->labels = more;
    snprintf(l->labels[l->n_labels++], sizeof(*l->labels), "%s", label);

    /* the label that open() sees must be only the part after the name */
    l->base = l->section->open(l->settings, label + strlen(l->section->name) + 1, &why);
    if (l->base == NULL)
        return fail(l, why.code != CE_OK ? why.code : CE_EINVAL, label, why.text);
    rc = section_defaults(l->section, l->base, &why);
    if (rc != CE_OK)
        return fail(l, rc, label, why.text);
    snprintf(l->member, sizeof(l->member), "%s", label);
    l->member_line = l->line;
    return CE_OK;
}

/* The keys of a family member are over: is it right as a whole? */
static void
close_member(struct load *l)
{
    int line = l->line, rc;
    char why[200];

    if (l->member[0] == '\0' || l->rc != CE_OK || l->section->check == NULL)
        return;
    rc = l->section->check(l->base, why, sizeof(why));
    l->line = l->member_line;
    if (rc != CE_OK)
        fail(l, rc, l->member, why);
    l->line = line;
    l->member[0] = '\0';
}

/* A line that begins with '[' and is otherwise inih's to judge. */
static void
enter_section(struct load *l, const char *line)
{
    char name[CONFFILE_MAX_LINE];
    const char *end = strchr(line, ']');
    size_t len, word;

    if (end == NULL || is_over(l))
        return;
    close_member(l);
    len = (size_t)(end - line - 1);
    memcpy(name, line + 1, len);
    name[len] = '\0';
    word = strcspn(name, " ");
    l->section = find_section(l->schema, name, word);
    if (len == 0 || l->section == NULL) {
        fail(l, CE_EINVAL, name, "unknown section");
    } else if (l->section->open != NULL) {
        if (name[word] == '\0' || name[word + 1] == '\0')
            fail(l, CE_EINVAL, name, "this section needs a name");
        else
            open_member(l, name);
    } else if (name[word] != '\0') {
        fail(l, CE_EINVAL, name, "this section takes no name");
    } else {
        l->base = l->settings;
    }
}

/* fgets for inih: one line a call, without its indentation. */
static char *
read_line(char *buf, int size, void *arg)
{
    struct load *l = arg;
    size_t len, indent;

    if (fgets(buf, size, l->file) == NULL)
        return NULL;
    l->line++;
    len = strlen(buf);
    if (len > 0 && buf[len - 1] != '\n' && !feof(l->file)) {
        fail(l, CE_EINVAL, "", "this line is too long, or holds a NUL byte");
        return NULL;
    }
    indent = strspn(buf, " \t");
    memmove(buf, buf + indent, len - indent + 1);
    if (buf[0] == '[')
        enter_section(l, buf);
    return buf;
}

static int
on_pair(void *arg, const char *section, const char *name, const char *value)
{
    struct load *l = arg;
    const struct conffile_key *key;
    char why[200];
    int rc;

    (void)section; /* the reader knows it, uncut */
    if (is_over(l) || (l->section == NULL && l->watch != NULL))
        return 1; /* of an unknown section, which has been said */
    key = l->section != NULL ? find_key(l->section, name) : NULL;
    if (key == NULL) {
        fail(l, CE_EINVAL, name, "unknown key");
        return 1;
    }
    if (see(l, l->base, key, name) != CE_OK)
        return 1;
    rc = conffile_value_set(key, l->base, value, why, sizeof(why));
    if (rc != CE_OK)
        fail(l, rc, name, why);
    else if (l->watch != NULL && l->base == l->settings)
        l->watch->set(l->watch->arg, key, l->line);
    return 1;
}

int
conffile_load(const struct conffile_schema *schema, void *settings, const char *path,
              struct err *err)
{
    return conffile_load_watched(schema, settings, path, NULL, err);
}

int
conffile_load_watched(const struct conffile_schema *schema, void *settings,
                      const char *path, const struct conffile_watch *watch,
                      struct err *err)
{
    struct load l = {
        .schema = schema,
        .settings = settings,
        .path = path,
        .section = find_section(schema, "", 0),
        .base = settings,
        .err = err,
        .watch = watch,
    };
    struct err mine = { 0 };
    int bad_line;

    l.file = fopen(path, "re");
    if (l.file == NULL) {
        l.rc = err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
        err_set(&mine, l.rc, "%s: %s", path, strerror(errno));
        if (watch != NULL)
            watch->problem(watch->arg, mine.text);
        return l.rc;
    }
    errno = 0;
    bad_line = ini_parse_stream(read_line, &l, on_pair, &l);
    close_member(&l);
    if (ferror(l.file))
        err_set(&mine, CE_EIO, "%s: %s", path, strerror(errno));
    else if (bad_line > 0 && (l.rc == CE_OK || bad_line < l.rc_line || watch != NULL))
        err_set(&mine, CE_EINVAL, "%s:%d: expected key = value or [section]", path,
                bad_line);
    else if (bad_line < 0 && l.rc == CE_OK)
        err_set(&mine, CE_ENOMEM, "%s: %s", path, err_name(CE_ENOMEM));
    fclose(l.file);
    mem_free(l.seen);
    mem_free(l.labels);
    if (mine.code == CE_OK)
        return l.rc;
    if (watch != NULL)
        watch->problem(watch->arg, mine.text);
    if (err != NULL)
        *err = mine;
    return mine.code;
}

/* ---- the command line ---- */

int
conffile_set(const struct conffile_schema *schema, void *settings, const char *assignment,
             struct err *err)
{
    const struct conffile_section *section;
    const struct conffile_key *key;
    const char *equals = strchr(assignment, '=');
    char name[128], why[200];
    const char *dot, *bare;
    int rc;

    if (equals == NULL || (size_t)(equals - assignment) >= sizeof(name))
        return err_set(err, CE_EINVAL, "%s: expected key=value", assignment);
    memcpy(name, assignment, (size_t)(equals - assignment));
    name[equals - assignment] = '\0';
    dot = strchr(name, '.');
    bare = dot != NULL ? dot + 1 : name;
    section = find_section(schema, name, dot != NULL ? (size_t)(dot - name) : 0);
    if (section == NULL || section->open != NULL)
        return err_set(err, CE_EINVAL, "command line: %s: unknown section", name);
    key = find_key(section, bare);
    if (key == NULL)
        return err_set(err, CE_EINVAL, "command line: %s: unknown key", name);
    rc = conffile_value_set(key, settings, equals + 1, why, sizeof(why));
    if (rc != CE_OK)
        return err_set(err, rc, "command line: %s: %s", name, why);
    return CE_OK;
}

/* ---- documentation ---- */

/* Comment lines of at most 78 columns. */
static void
print_wrapped(FILE *out, const char *text)
{
    int column = 0;

    while (*text != '\0') {
        int word = (int)strcspn(text, " ");

        if (column > 0 && column + 1 + word > 78) {
            fputc('\n', out);
            column = 0;
        }
        if (column == 0)
            column = fprintf(out, "# %.*s", word, text);
        else
            column += fprintf(out, " %.*s", word, text);
        text += word;
        text += strspn(text, " ");
    }
    if (column > 0)
        fputc('\n', out);
}

static void
print_key(FILE *out, const struct conffile_key *key)
{
    char bounds[200];

    fputc('\n', out);
    if (key->help != NULL)
        print_wrapped(out, key->help);
    if (conffile_value_bounds(key, bounds, sizeof(bounds)) > 0)
        print_wrapped(out, bounds);
    fprintf(out, "#%s =%s%s\n", key->name, key->def != NULL && key->def[0] ? " " : "",
            key->def != NULL ? key->def : "");
}

void
conffile_print(const struct conffile_schema *schema, FILE *out)
{
    for (int i = 0; i < schema->n_sections; i++) {
        const struct conffile_section *s = &schema->sections[i];

        if (i > 0)
            fputc('\n', out);
        if (s->help != NULL)
            print_wrapped(out, s->help);
        if (s->open != NULL)
            fprintf(out, "#[%s NAME]\n", s->name);
        else if (s->name[0] != '\0')
            fprintf(out, "[%s]\n", s->name);
        for (int k = 0; k < s->n_keys; k++)
            print_key(out, &s->keys[k]);
    }
}

int
conffile_same(const struct conffile_key *key, const void *a, const void *b)
{
    const char *at = (const char *)a + key->offset, *bt = (const char *)b + key->offset;

    if (!conffile_value_is_text(key))
        return memcmp(at, bt, conffile_value_size(key)) == 0;
    at = *(char *const *)(const void *)at;
    bt = *(char *const *)(const void *)bt;
    return strcmp(at != NULL ? at : "", bt != NULL ? bt : "") == 0;
}

void
conffile_swap(const struct conffile_key *key, void *a, void *b)
{
    unsigned char keep[sizeof(int64_t)];
    size_t size = conffile_value_size(key);

    memcpy(keep, (char *)a + key->offset, size);
    memcpy((char *)a + key->offset, (char *)b + key->offset, size);
    memcpy((char *)b + key->offset, keep, size);
}

void
conffile_section_free(const struct conffile_section *section, void *base)
{
    for (int i = 0; i < section->n_keys; i++)
        conffile_value_free(&section->keys[i], base);
}

void
conffile_free(const struct conffile_schema *schema, void *settings)
{
    for (int i = 0; i < schema->n_sections; i++)
        if (schema->sections[i].open == NULL)
            conffile_section_free(&schema->sections[i], settings);
}
