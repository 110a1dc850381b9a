/* SPDX-License-Identifier: Apache-2.0
 * revision.h - which source this program was built from.
 *
 * The build writes revision.c: what `git describe` says in a checkout, with "-dirty"
 * when files were changed, else the version of the package. Thread: constant.
 */
#ifndef CE_TOOLS_REVISION_H
#define CE_TOOLS_REVISION_H

extern const char revision[];

#endif
