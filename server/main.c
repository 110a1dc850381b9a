/* SPDX-License-Identifier: Apache-2.0
 * main.c - cecollm-cloudd: options, settings, run. The server itself is cloudd.c.
 */
#include "config.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "server/check_config.h"
#include "server/cloudd.h"
#include "server/server_conf.h"
#include "server/tenants.h"

#define MAX_SET 64

struct options {
    const char *conf_path;
    char *set[MAX_SET];
    int n_set;
    bool check_config, print_config, make_token;
};

static const char usage[] =
    "usage: cecollm-cloudd [-c FILE] [--set KEY=VALUE]... [--check-config]\n"
    "       cecollm-cloudd --print-config | --make-token | --help | --version\n"
    "\n"
    "Runs the deeper layers of a model for many cecollm-agents.\n"
    "\n"
    "  -c, --config FILE    read settings from FILE\n"
    "  -s, --set KEY=VALUE  one setting, over the file's; may be repeated\n"
    "      --check-config   read settings, certificates and model, list what is wrong, "
    "exit\n"
    "      --print-config   print a settings file with every key at its default, exit\n"
    "      --make-token     print a new random token, and the line of it for the tenants "
    "file\n"
    "  -h, --help           this text\n"
    "  -V, --version        the version\n"
    "\n"
    "Signals: TERM or INT drains and stops, a second one at once; HUP reads settings, "
    "tenants\n"
    "and certificates again; USR1 logs what is held; USR2 switches debug logs.\n"
    " See cecollm-cloudd(8) and cecollm.conf(5).\n";

/* Returns the exit status when the program is done already, else -1. */
static int
parse_options(struct options *o, int argc, char **argv)
{
    static const struct option longs[] = {
        { "config", required_argument, NULL, 'c' },
        { "set", required_argument, NULL, 's' },
        { "check-config", no_argument, NULL, 'C' },
        { "print-config", no_argument, NULL, 'P' },
        { "make-token", no_argument, NULL, 'T' },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { NULL, 0, NULL, 0 },
    };
    int option;

    while ((option = getopt_long(argc, argv, "c:s:hV", longs, NULL)) != -1) {
        switch (option) {
        case 'c':
            o->conf_path = optarg;
            break;
        case 's':
            if (o->n_set == MAX_SET) {
                fprintf(stderr, "cecollm-cloudd: more than %d --set\n", MAX_SET);
                return 2;
            }
            o->set[o->n_set++] = optarg;
            break;
        case 'C':
            o->check_config = true;
            break;
        case 'P':
            o->print_config = true;
            break;
        case 'T':
            o->make_token = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        case 'V':
            puts("cecollm-cloudd " PACKAGE_VERSION);
            return 0;
        default:
            fputs("Try cecollm-cloudd --help.\n", stderr);
            return 2;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "cecollm-cloudd: %s: not an option\n", argv[optind]);
        return 2;
    }
    return -1;
}

/* The token alone on standard output, so that it can go into a file; what else there
 * is to say on standard error. */
static int
make_token(void)
{
    char token[44], hash[65];
    struct err err;

    if (tenants_make_token(token, hash, &err) < 0) {
        fprintf(stderr, "cecollm-cloudd: %s\n", err.text);
        return 1;
    }
    puts(token);
    fprintf(stderr, "token_sha256 = %s\n", hash);
    return 0;
}

static int
serve(struct server_conf *conf, const struct server_conf_source *source, struct err *err)
{
    struct cloudd *c;
    int rc = cloudd_start(&c, conf, source, err);

    if (rc < 0)
        return rc;
    rc = cloudd_run(c, err);
    cloudd_stop(c);
    return rc;
}

int
main(int argc, char **argv)
{
    struct options o = { 0 };
    struct server_conf_source source;
    struct server_conf conf;
    struct err err;
    int rc = parse_options(&o, argc, argv);

    if (rc >= 0)
        return rc;
    if (o.print_config) {
        conffile_print(&server_conf_schema, stdout);
        return 0;
    }
    if (o.make_token)
        return make_token();
    source = (struct server_conf_source){ o.conf_path, o.set, o.n_set };
    if (o.check_config)
        return check_config(&source, stderr, stdout) > 0;
    signal(SIGPIPE, SIG_IGN);
    rc = server_conf_load(&conf, o.conf_path, o.set, o.n_set, &err);
    if (rc == 0) {
        log_set_level((enum log_level)conf.log_level);
        rc = server_conf_check(&conf, &err);
        if (rc == 0)
            rc = serve(&conf, &source, &err);
        server_conf_free(&conf);
    }
    if (rc < 0) {
        fprintf(stderr, "cecollm-cloudd: %s\n", err.text);
        return 1;
    }
    return 0;
}
