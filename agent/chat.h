/* SPDX-License-Identifier: Apache-2.0
 * chat.h - a conversation on the terminal, line by line.
 */
#ifndef CE_AGENT_CHAT_H
#define CE_AGENT_CHAT_H

#include "agent/agent_conf.h"

/* The program's exit code. */
int chat_run(const struct agent_conf *conf);

#endif
