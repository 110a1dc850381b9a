/* SPDX-License-Identifier: Apache-2.0
 * main.c - cecollm-agent: read the settings, answer or chat.
 */
#include "config.h"

#include <stdio.h>

#include "agent/agent_conf.h"
#include "agent/app.h"
#include "agent/answers.h"
#include "agent/chat.h"
#include "common/log.h"

int
main(int argc, char **argv)
{
    struct agent_conf conf;
    struct err err = { 0 };
    int code = APP_EXIT_OK;

    if (agent_conf_read(&conf, argc, argv, &err) < 0) {
        app_complain(&err);
        agent_conf_free(&conf);
        return APP_EXIT_USAGE;
    }
    log_set_level((enum log_level)conf.log_level);
    if (conf.want_help)
        agent_conf_usage(stdout);
    else if (conf.want_version)
        puts("cecollm-agent " PACKAGE_VERSION);
    else if (conf.want_config)
        agent_conf_print(stdout);
    else if (conf.prompt != NULL || conf.prompts_file != NULL || conf.ids != NULL)
        code = answers_run(&conf);
    else
        code = chat_run(&conf);
    agent_conf_free(&conf);
    return code;
}
