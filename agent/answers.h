/* SPDX-License-Identifier: Apache-2.0
 * answers.h - answer what the command line asks, in order, then end.
 */
#ifndef CE_AGENT_ANSWERS_H
#define CE_AGENT_ANSWERS_H

#include "agent/agent_conf.h"

/* The program's exit code. */
int answers_run(const struct agent_conf *conf);

#endif
